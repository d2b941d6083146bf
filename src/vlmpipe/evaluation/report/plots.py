"""Drawings as inline SVG: in the page's own colours, sized by their container."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#7f7f7e"
"""Replaced by the page's own text colour, so that the drawing follows light and dark."""

COLOURS = ("#3b7dd8", "#c9702b", "#3f9b6c", "#9a5bb5", "#b8495a", "#5f8c99")
WIDE_IN, NARROW_IN = (9.6, 3.0), (4.4, 2.9)
"""Width and height: text in a drawing shrinks with it, so a phone gets a drawing of its own."""


def inline_drawings(draw: Callable[[Axes], None], name: str, label: str) -> tuple[str, str] | None:
    """A wide and a narrow `<svg>` element; None where there is no matplotlib to draw.

    `name` keeps the ids of two drawings apart, `label` is for those who cannot see.
    """
    try:
        return _drawing(draw, WIDE_IN, f"{name}w", label), _drawing(
            draw, NARROW_IN, f"{name}n", label
        )
    except ImportError:
        return None


def _drawing(
    draw: Callable[[Axes], None], size_in: tuple[float, float], prefix: str, label: str
) -> str:
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
        axes = figure.add_subplot()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25, color=INK)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), prefix, label)


def _inline(svg: str, prefix: str, label: str) -> str:
    """The element alone, sized by its container, in the page's colour, its ids its own."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", element, count=1)
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}_", element)
    said = f' role="img" aria-label="{label}"'
    return element.replace("<svg", f"<svg{said}", 1).replace(INK, "currentColor")
