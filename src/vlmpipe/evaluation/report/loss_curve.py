"""The loss over the steps of training, phase by phase, as inline SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#7f7f7e"
"""Replaced by the page's own text colour, so that the drawing follows light and dark."""

PHASE_COLOURS = ("#3b7dd8", "#c9702b", "#3f9b6c", "#9a5bb5", "#b8495a", "#5f8c99")
WIDTH_IN, HEIGHT_IN = 5.6, 2.7


def loss_curve_svg(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """An `<svg>` element, None where there is nothing to draw or no matplotlib to draw with.

    `rows` carry `step` and `loss`, and may carry `phase` and `eval_loss`.
    """
    drawn = [row for row in rows if _number(row, "loss") and _number(row, "step")]
    if len(drawn) < 2:
        return None
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return None
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "vlmpipe",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
        _draw(figure.add_subplot(), drawn, rows)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue())


def _draw(
    axes: Axes, drawn: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> None:
    phases = groupby(drawn, key=lambda row: str(row.get("phase", "")))
    for index, (phase, group) in enumerate(phases):
        points = [(row["step"], row["loss"]) for row in group]
        colour = PHASE_COLOURS[index % len(PHASE_COLOURS)]
        steps, losses = zip(*points, strict=True)
        marker = "o" if len(points) == 1 else ""
        axes.plot(steps, losses, color=colour, marker=marker, label=phase or "train")
    evaluated = [(row["step"], row["eval_loss"]) for row in rows if _number(row, "eval_loss")]
    if evaluated:
        steps, losses = zip(*evaluated, strict=True)
        axes.plot(steps, losses, "D", color=INK, markersize=4, label="held-out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a token")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25, color=INK)
    axes.legend(frameon=False, ncols=3)


def _number(row: Mapping[str, Any], key: str) -> bool:
    return isinstance(row.get(key), (int, float))


def _inline(svg: str) -> str:
    """The element alone, sized by its container, in the page's colour."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    label = ' role="img" aria-label="Training loss by step"'
    return element.replace("<svg", f"<svg{label}", 1).replace(INK, "currentColor")
