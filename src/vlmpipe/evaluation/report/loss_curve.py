"""The loss over the steps of training, phase by phase, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from vlmpipe.evaluation.report.plots import COLOURS, INK, inline_drawings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
WIDE_RANGE = 20
"""Largest over smallest loss."""


def loss_curves(rows: Rows) -> tuple[str, str] | None:
    """A wide and a narrow `<svg>` element; None with nothing to draw, or no matplotlib to draw.

    `rows` carry `step` and `loss`, and may carry `phase`; others carry `step` and `eval_loss`.
    """
    if sum(_has(row, "loss") for row in rows) < 2:
        return None
    return inline_drawings(lambda axes: _draw(axes, rows), "loss", "Training loss by step")


def _draw(axes: Axes, rows: Rows) -> None:
    from matplotlib.ticker import MaxNLocator

    drawn = [row for row in rows if _has(row, "loss")]
    phases = groupby(drawn, key=lambda row: str(row.get("phase", "")))
    for index, (phase, group) in enumerate(phases):
        points = [(row["step"], row["loss"]) for row in group]
        steps, losses = zip(*points, strict=True)
        axes.plot(
            steps,
            losses,
            color=COLOURS[index % len(COLOURS)],
            marker="o" if len(points) == 1 else "",
            label=phase or "train",
        )
    evaluated = [(row["step"], row["eval_loss"]) for row in rows if _has(row, "eval_loss")]
    if evaluated:
        steps, losses = zip(*evaluated, strict=True)
        axes.plot(steps, losses, "D", color=INK, markersize=4, label="held-out")
    axes.set(xlabel="step", ylabel="loss, nats a token")
    _scale(axes, [row["loss"] for row in drawn] + [row[1] for row in evaluated])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.figure.legend(frameon=False, ncols=4, loc="outside upper left")


def _scale(axes: Axes, losses: Sequence[float]) -> None:
    """Logarithmic where later phases would else lie flat on the axis."""
    if min(losses) > 0 and max(losses) > WIDE_RANGE * min(losses):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _has(row: Mapping[str, Any], key: str) -> bool:
    numbers = (row.get(key), row.get("step"))
    return all(isinstance(number, (int, float)) for number in numbers)
