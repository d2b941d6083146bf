"""The form in which a benchmark's figures are kept and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Figure = dict[str, Any]
Bound = Literal["at least", "at most"]


def figure(
    value: float,
    unit: str,
    *,
    goal: float | None = None,
    bound: Bound = "at least",
    spread: Sequence[float] | None = None,
) -> Figure:
    """A value beside its goal; `spread` is the lowest and the highest of repeated measurements."""
    met = None if goal is None else (value >= goal if bound == "at least" else value <= goal)
    return {
        "value": value,
        "unit": unit,
        "goal": goal,
        "bound": None if goal is None else bound,
        "met": met,
        "spread": None if spread is None else [min(spread), max(spread)],
    }


def markdown_table(figures: Mapping[str, Figure]) -> str:
    """One line a figure."""
    lines = ["| figure | value | goal | met | lowest – highest |", "|---|---|---|---|---|"]
    for name, each in figures.items():
        sign = {"at least": "≥", "at most": "≤", None: ""}[each["bound"]]
        goal = "" if each["goal"] is None else f"{sign} {each['goal']:g}"
        met = {None: "", True: "yes", False: "**no**"}[each["met"]]
        spread = "" if each["spread"] is None else " – ".join(f"{v:.3g}" for v in each["spread"])
        lines.append(f"| {name} | {each['value']:.3g} {each['unit']} | {goal} | {met} | {spread} |")
    return "\n".join(lines) + "\n"
