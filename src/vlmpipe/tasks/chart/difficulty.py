"""How hard a chart is to write down, from its parts and its texts."""

from __future__ import annotations

import math

from vlmpipe.tasks.chart.model import AxisChart, Chart, Flowchart

ELEMENTS_OF_AXES = (2, 24)
ELEMENTS_OF_PIES = (2, 12)
ELEMENTS_OF_FLOWS = (3, 45)
"""Bars or points, slices, nodes and arrows of the easiest and of the hardest chart."""

CHARACTERS_OF_AXES = (24, 420)
CHARACTERS_OF_PIES = (24, 260)
CHARACTERS_OF_FLOWS = (20, 440)

PRINTED_BELOW = 0.4
"""Bars and points of easier charts have their values printed on them."""


def chart_difficulty(chart: Chart) -> float:
    """0 for two short bars, two slices or two boxes; 1 for two dozen bars, a dozen slices or
    twenty-odd boxes and their arrows, with texts of two words or more.
    """
    count, (elements, characters) = _size(chart)
    length = sum(map(letters, chart.texts))
    return round(0.6 * log_share(count, *elements) + 0.4 * log_share(length, *characters), 6)


def log_share(value: float, low: float, high: float) -> float:
    """Where `value` stands between `low` (0) and `high` (1), on a logarithmic scale."""
    if value <= low:
        return 0.0
    return min(1.0, math.log(value / low) / math.log(high / low))


def letters(text: str) -> int:
    """Characters, a syllable of Hangul as two: it is put together from two letters or three."""
    return sum(2 if "가" <= each <= "힣" else 1 for each in text)


def _size(chart: Chart) -> tuple[int, tuple[tuple[int, int], tuple[int, int]]]:
    if isinstance(chart, Flowchart):
        return len(chart.nodes) + len(chart.edges), (ELEMENTS_OF_FLOWS, CHARACTERS_OF_FLOWS)
    if isinstance(chart, AxisChart):
        return len(chart.all_values), (ELEMENTS_OF_AXES, CHARACTERS_OF_AXES)
    return len(chart.slices), (ELEMENTS_OF_PIES, CHARACTERS_OF_PIES)
