"""The loss over the steps of training, phase by phase, as inline SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]

INK = "#7f7f7e"
"""Replaced by the page's own text colour, so that the drawing follows light and dark."""

PHASE_COLOURS = ("#3b7dd8", "#c9702b", "#3f9b6c", "#9a5bb5", "#b8495a", "#5f8c99")
WIDE_IN, NARROW_IN = (9.6, 3.0), (4.4, 2.9)
"""Width and height: text in a drawing shrinks with it, so a phone gets a drawing of its own."""


def loss_curves(rows: Rows) -> tuple[str, str] | None:
    """A wide and a narrow `<svg>` element; None with nothing to draw, or no matplotlib to draw.

    `rows` carry `step` and `loss`, and may carry `phase`; others carry `step` and `eval_loss`.
    """
    if sum(_has(row, "loss") for row in rows) < 2:
        return None
    try:
        return _drawing(rows, WIDE_IN), _drawing(rows, NARROW_IN)
    except ImportError:
        return None


def _drawing(rows: Rows, size_in: tuple[float, float]) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "vlmpipe",
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size_in, layout="constrained")
        _draw(figure.add_subplot(), rows)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), f"w{size_in[0]:g}".replace(".", "_"))


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
            color=PHASE_COLOURS[index % len(PHASE_COLOURS)],
            marker="o" if len(points) == 1 else "",
            label=phase or "train",
        )
    evaluated = [(row["step"], row["eval_loss"]) for row in rows if _has(row, "eval_loss")]
    if evaluated:
        steps, losses = zip(*evaluated, strict=True)
        axes.plot(steps, losses, "D", color=INK, markersize=4, label="held-out")
    axes.set(xlabel="step", ylabel="loss, nats a token")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25, color=INK)
    axes.figure.legend(frameon=False, ncols=4, loc="outside upper left")


def _has(row: Mapping[str, Any], key: str) -> bool:
    numbers = (row.get(key), row.get("step"))
    return all(isinstance(number, (int, float)) for number in numbers)


def _inline(svg: str, prefix: str) -> str:
    """The element alone, sized by its container, in the page's colour, its ids its own."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", element, count=1)
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}_", element)
    label = ' role="img" aria-label="Training loss by step"'
    return element.replace("<svg", f"<svg{label}", 1).replace(INK, "currentColor")
