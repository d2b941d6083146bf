"""The lab's pictures as PNG; without matplotlib there are none, and tables say the same."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmpipe.evaluation.report.plots import COLOURS
from vlmpipe.pipeline.files import write_bytes
from vlmpipe.training.lab.lr_curve import Suggestion, smoothed
from vlmpipe.training.lab.sweep_rows import TrialRow, is_smaller_better

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
        axes.set_ylim(*_heights(losses, curve))
        axes.set(xlabel=f"learning rate, over {len(rates)} steps", ylabel="loss, nats a token")
        _mark_rates(axes, suggestion)
        axes.legend(frameon=False, loc="lower left", fontsize=8)

    return _saved(path, (7.2, 4.0), draw)


def draw_sweep(path: Path, rows: Sequence[TrialRow], metric: str) -> bool:
    """Each setting's metric with its interval, best on top, seeds beside each other; False where
    nothing can draw, or no trial has a metric.
    """
    measured = [row for row in rows if row.metric is not None]
    if not measured:
        return False
    labels = _by_mean(measured, metric)
    seeds = list(dict.fromkeys(row.seed for row in sorted(measured, key=lambda row: row.number)))
    # In the order of their first trial, drawn and named alike.
    drawn = sorted(measured, key=lambda row: seeds.index(row.seed))

    def draw(axes: Axes) -> None:
        for row in drawn:
            place, value = seeds.index(row.seed), float(row.metric or 0)
            height = labels.index(row.label) + (place - (len(seeds) - 1) / 2) * 0.6 / len(seeds)
            colour = COLOURS[place % len(COLOURS)]
            if row.interval:
                axes.plot(row.interval, (height, height), color=colour, linewidth=1.5, alpha=0.6)
            label = f"seed {row.seed}" if len(seeds) > 1 else ""
            axes.plot(value, height, "o", color=colour, markersize=5, label=label)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        better = "smaller" if is_smaller_better(metric) else "larger"
        axes.set(xlabel=f"{metric} ({better} is better; bars: 95 %, over samples)")
        if len(seeds) > 1:
            handles, names = axes.get_legend_handles_labels()
            known = dict(zip(names, handles, strict=True))
            axes.figure.legend(
                known.values(), known.keys(), frameon=False, ncols=6, loc="outside upper left"
            )

    return _saved(path, (7.2, 1.4 + 0.42 * len(labels)), draw)


def _heights(losses: Sequence[float], curve: Sequence[float]) -> tuple[float, float]:
    """Every loss up to the lowest smoothed one, and the lowest of all, with room at both ends; what
    diverges afterwards would press them flat.
    """
    low, high = min(losses), max(losses[: 1 + curve.index(min(curve))])
    room = 0.1 * max(high - low, 0.05 * abs(high))
    return low - room, high + room


def _by_mean(rows: Sequence[TrialRow], metric: str) -> list[str]:
    """Settings, the best on average first."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row.label, []).append(float(row.metric or 0))
    means = {label: sum(own) / len(own) for label, own in values.items()}
    return sorted(means, key=lambda label: means[label], reverse=not is_smaller_better(metric))


def _mark_rates(axes: Axes, suggestion: Suggestion) -> None:
    if suggestion.learning_rate is None:
        axes.set_title("no rate can be read off", loc="left", fontsize=9)
        return
    axes.axvline(suggestion.learning_rate, color=COLOURS[1], linewidth=1.5)
    title = f"suggested: {suggestion.learning_rate:.1e}"
    for name, rate in (("fall begins", suggestion.onset), ("lowest", suggestion.minimum)):
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
