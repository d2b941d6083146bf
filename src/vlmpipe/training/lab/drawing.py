"""The lab's pictures as PNG; without matplotlib there are none, and tables say the same."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """Each setting's metric with its interval, best on top, seeds beside each other; those that
    failed are named at the bottom. False where nothing can draw, or no trial has a metric.
    """
    measured = [row for row in rows if row.metric is not None]
    if not measured:
        return False
    labels = list(dict.fromkeys([*_by_mean(measured, metric), *(row.label for row in rows)]))
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
            # Over the axis, where a value of zero lies.
            marker: dict[str, Any] = {"markersize": 5, "zorder": 3, "clip_on": False}
            axes.plot(value, height, "o", color=colour, label=label, **marker)
        names = [label + _failures(rows, label) for label in labels]
        axes.set_yticks(range(len(labels)), names, fontsize=8)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(*_within_range(axes.get_xlim(), measured))
        better = "smaller" if is_smaller_better(metric) else "larger"
        axes.set(xlabel=f"{metric} ({better} is better)\n{_bars(measured)}")
        if len(seeds) > 1:
            handles, names = axes.get_legend_handles_labels()
            known = dict(zip(names, handles, strict=True))
            axes.figure.legend(
                known.values(), known.keys(), frameon=False, ncols=6, loc="outside upper left"
            )

    return _saved(path, (7.2, 1.4 + 0.42 * len(labels)), draw)


def _failures(rows: Sequence[TrialRow], label: str) -> str:
    own = [row for row in rows if row.label == label]
    failed = sum(row.metric is None for row in own)
    if not failed:
        return ""
    return " (failed)" if failed == len(own) else f" ({failed} of {len(own)} failed)"


def _bars(rows: Sequence[TrialRow]) -> str:
    """What the bars are, where any can be seen."""
    intervals = [row.interval for row in rows if row.interval]
    if any(low < high for low, high in intervals):
        return "bars: 95 %, over samples"
    return "95 % intervals over samples have no width" if intervals else "no intervals"


def _within_range(limits: tuple[float, float], rows: Sequence[TrialRow]) -> tuple[float, float]:
    """The axis without values that such a metric cannot have: none of those measured is below zero,
    or in a score above 1.
    """
    values = [row.metric or 0.0 for row in rows]
    values += [end for row in rows for end in row.interval or ()]
    low, high = limits
    return (0.0 if min(values) >= 0 > low else low, 1.0 if max(values) <= 1 < high else high)


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
    named = {
        "fall begins": suggestion.onset,
        "suggested": suggestion.learning_rate,
        "lowest": suggestion.minimum,
    }
    for name, rate in named.items():
        if rate is not None:
            colour, style = (COLOURS[1], "-") if name == "suggested" else (FAINT, "--")
            axes.axvline(rate, color=colour, linewidth=1.5, linestyle=style)
    title = "   ".join(f"{name}: {rate:.1e}" for name, rate in named.items() if rate is not None)
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
