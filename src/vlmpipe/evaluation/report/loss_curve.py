"""The loss over the steps of training, phase by phase, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from vlmpipe.evaluation.report.plots import COLOURS, INK, inline_drawings
from vlmpipe.evaluation.report.training_events import EVENTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
MARKERS = {"bad_step": "x", "loss_spike": "^", "grad_norm_spike": "v", "plateau": "s"}
"""On the axis, at the step of an event."""

WIDE_RANGE = 20
"""Largest over smallest loss."""


def loss_curves(rows: Rows) -> tuple[str, str] | None:
    """A wide and a narrow `<svg>` element; None with nothing to draw, or no matplotlib to draw.

    `rows` carry `step` and `loss`, and may carry `phase`; others carry `step` and `eval_loss`, or
    `step` and an `event`.
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
    _mark_events(axes, rows)
    axes.set(xlabel="step", ylabel="loss, nats a token")
    _scale(axes, [row["loss"] for row in drawn] + [row[1] for row in evaluated])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.figure.legend(frameon=False, ncols=4, loc="outside upper left")


def _mark_events(axes: Axes, rows: Rows) -> None:
    """A line where a phase was stopped early, and a mark on the axis for what else was noticed."""
    stops = [row["step"] for row in rows if _is_event(row, "stopped_early")]
    for index, step in enumerate(stops):
        label = "" if index else EVENTS["stopped_early"]
        axes.axvline(step, color=INK, linestyle=":", linewidth=1.2, label=label)
    for event, marker in MARKERS.items():
        steps = [row["step"] for row in rows if _is_event(row, event)]
        if steps:
            axes.plot(
                steps,
                [0.03] * len(steps),
                marker,
                color=COLOURS[4],
                markersize=5,
                transform=axes.get_xaxis_transform(),
                label=EVENTS[event],
            )


def _is_event(row: Mapping[str, Any], event: str) -> bool:
    return row.get("event") == event and _is_number(row.get("step"))


def _scale(axes: Axes, losses: Sequence[float]) -> None:
    """Logarithmic where later phases would else lie flat on the axis."""
    if min(losses) > 0 and max(losses) > WIDE_RANGE * min(losses):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _has(row: Mapping[str, Any], key: str) -> bool:
    return _is_number(row.get(key)) and _is_number(row.get("step"))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
