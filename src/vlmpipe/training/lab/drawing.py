"""The lab's pictures as PNG; without matplotlib there are none, and tables say the same."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmpipe.evaluation.report.plots import COLOURS
from vlmpipe.pipeline.files import write_bytes
from vlmpipe.training.lab.lr_curve import Suggestion, smoothed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 150
INK, FAINT = "#333333", "#9aa5b1"


def draw_lr_curve(
    path: Path, rates: Sequence[float], losses: Sequence[float], suggestion: Suggestion
) -> bool:
    """Loss over the learning rate, with what was read off it; False where nothing can draw, or
    fewer than two points are there.
    """
    if len(losses) < 2:
        return False

    def draw(axes: Axes) -> None:
        curve = smoothed(losses)
        axes.plot(rates, losses, ".", color=FAINT, markersize=5, label="loss after a step")
        axes.plot(rates, curve, color=COLOURS[0], linewidth=2, label="smoothed")
        axes.set_xscale("log")
        # What diverges at the end would press everything else flat.
        low, first = min(curve), curve[0]
        top = max(first, *curve[: max(1, len(curve) // 2)]) + 0.2 * max(first - low, 0.05 * first)
        axes.set_ylim(low - 0.15 * (top - low), top)
        axes.set(xlabel="learning rate", ylabel="loss, nats a token")
        _mark_rates(axes, suggestion)
        axes.legend(frameon=False, loc="lower left", fontsize=8)

    return _saved(path, (7.2, 4.0), draw)


def _mark_rates(axes: Axes, suggestion: Suggestion) -> None:
    if suggestion.learning_rate is None:
        axes.set_title("no rate can be read off", loc="left", fontsize=9)
        return
    axes.axvline(suggestion.learning_rate, color=COLOURS[1], linewidth=1.5)
    title = f"suggested: {suggestion.learning_rate:.1e}"
    for name, rate in (("valley", suggestion.valley), ("lowest", suggestion.minimum)):
        if rate is not None:
            axes.axvline(rate, color=FAINT, linewidth=1, linestyle="--")
            title += f"   {name}: {rate:.1e}"
    axes.set_title(title, loc="left", fontsize=9)


def _saved(path: Path, size_in: tuple[float, float], draw: Callable[[Axes], None]) -> bool:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=size_in, layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    write_bytes(path, stream.getvalue())
    return True
