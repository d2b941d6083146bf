"""Size against quality of the converted files, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from vlmpipe.evaluation.report.plots import COLOURS, INK, inline_drawings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
LEAST_KLD = 1e-9
"""A logarithmic axis has no zero."""


def quant_plot(rows: Rows, recommended: str | None) -> tuple[str, str] | None:
    """A wide and a narrow `<svg>` element: file size against KL divergence from the adapter.

    None with fewer than two files, or no matplotlib to draw.
    """
    keys = ("kld_adapter", "size_bytes")
    drawn = [row for row in rows if all(_is_number(row, key) for key in keys)]
    if len(drawn) < 2:
        return None
    label = "KL divergence from the adapter by file size"
    return inline_drawings(lambda axes: _draw(axes, drawn, recommended), "quants", label)


def _draw(axes: Axes, rows: Rows, recommended: str | None) -> None:
    points = sorted(((row["size_bytes"] / 2**20, row) for row in rows), key=lambda point: point[0])
    sizes = [size for size, _ in points]
    klds = [max(row["kld_adapter"], LEAST_KLD) for _, row in points]
    axes.plot(sizes, klds, color=INK, linewidth=0.8, alpha=0.5)
    for size, kld, (_, row) in zip(sizes, klds, points, strict=True):
        chosen = row.get("quant") == recommended
        colour = COLOURS[4] if row.get("excluded") else COLOURS[2] if chosen else COLOURS[0]
        axes.plot([size], [kld], "o", color=colour, markersize=9 if chosen else 6)
        text = f"{row.get('quant')}{' (recommended)' if chosen else ''}"
        side = _side(size, sizes)
        axes.annotate(text, (size, kld), xytext=(0, 9), textcoords="offset points", ha=side)
    axes.set_yscale("log")
    axes.margins(x=0.28, y=0.35)
    axes.set(xlabel="size of the language model's file, MiB", ylabel="KL divergence, nats a token")


def _side(size: float, sizes: Sequence[float]) -> Literal["left", "center", "right"]:
    """Where a label is held at its point: one near an edge runs away from it."""
    third = (sizes[-1] - sizes[0]) / 3
    if size < sizes[0] + third:
        return "left"
    return "right" if size > sizes[-1] - third else "center"


def _is_number(row: Mapping[str, Any], key: str) -> bool:
    return isinstance(row.get(key), (int, float)) and not isinstance(row.get(key), bool)
