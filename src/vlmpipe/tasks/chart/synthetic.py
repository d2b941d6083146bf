"""Random charts with axes and pies, from two bars to two dozen."""

from __future__ import annotations

import itertools
import math
import random

from vlmpipe.tasks.base import Language
from vlmpipe.tasks.chart import texts
from vlmpipe.tasks.chart.model import Axis, AxisChart, AxisKind, PieChart
from vlmpipe.tasks.chart.scale import rounded, tick_step

ROUND_BELOW = 0.3
"""Below this difficulty all values are whole numbers of one or two digits."""


def random_axis_chart(
    rng: random.Random, kind: AxisKind, language: Language, difficulty: float
) -> AxisChart:
    """A bar or line chart about as hard as asked, 0 to 1."""
    count = _count(rng, 2 * 12**difficulty)
    length = _text_length(rng, difficulty)
    axis = _axis(rng, kind, language, difficulty)
    return AxisChart(
        kind=kind,
        categories=texts.labels(rng, language, count, length),
        values=_values(rng, kind, axis, count, difficulty),
        title=texts.title(rng, language, _title_length(rng, difficulty)),
        x_title=texts.phrase(rng, language, 6) if rng.random() < difficulty - 0.4 else "",
        y_axis=axis,
    )


def random_pie(rng: random.Random, language: Language, difficulty: float) -> PieChart:
    """A pie chart about as hard as asked, 0 to 1."""
    count = _count(rng, 2 * 6**difficulty)
    whole = difficulty < ROUND_BELOW or rng.random() < 0.5
    values = _parts_of_a_hundred(rng, count) if whole else _amounts(rng, count)
    names = texts.labels(rng, language, count, _text_length(rng, difficulty) * 1.3)
    title = texts.title(rng, language, _title_length(rng, difficulty))
    return PieChart(tuple(zip(names, values, strict=True)), title)


def _count(rng: random.Random, about: float) -> int:
    """Two at least; between whole numbers either is drawn, the nearer one more often."""
    return max(2, round(about + rng.uniform(-0.5, 0.5)))


def _text_length(rng: random.Random, difficulty: float) -> float:
    return 4 * math.pow(3.2, difficulty) * rng.uniform(0.8, 1.2)


def _title_length(rng: random.Random, difficulty: float) -> float:
    return 4 * 9**difficulty * rng.uniform(0.8, 1.2)


def _axis(rng: random.Random, kind: AxisKind, language: Language, difficulty: float) -> Axis:
    power = 1 if difficulty < ROUND_BELOW else rng.randint(0, 3)
    step = float(f"{rng.choice((1, 2, 5))}e{power}")
    low = step * rng.randint(1, 5) if kind == "line" and rng.random() < difficulty - 0.3 else 0.0
    # Eight intervals at most, so that the end of the axis is one of its ticks.
    high = low + step * rng.randint(4, 8 if difficulty >= ROUND_BELOW else 5)
    unit = rng.choice(texts.terms_of(language).units) if rng.random() < difficulty + 0.1 else ""
    return Axis(unit if difficulty >= 0.15 else "", (low, high))


def _values(
    rng: random.Random, kind: AxisKind, axis: Axis, count: int, difficulty: float
) -> tuple[float, ...]:
    """Tenths of the distance between two ticks, which can be read off the axis.

    No bar is so low that it looks like none, and no point so low that its value would be printed
    across the axis.
    """
    assert axis.bounds is not None
    low, high = axis.bounds
    tenth = tick_step(low, high) / 10
    if difficulty < ROUND_BELOW:
        tenth = max(1.0, tenth)
    lowest, highest = (4 if kind == "bar" else 10), round((high - low) / tenth)
    return tuple(rounded(low + tenth * rng.randint(lowest, highest)) for _ in range(count))


def _parts_of_a_hundred(rng: random.Random, count: int) -> list[float]:
    """Whole numbers of 3 and more that add up to 100."""
    cuts = sorted(rng.sample(range(1, 100 - 3 * count + count), count - 1))
    edges = [0, *cuts, 100 - 2 * count]
    return [float(b - a + 2) for a, b in itertools.pairwise(edges)]


def _amounts(rng: random.Random, count: int) -> list[float]:
    """Numbers that differ by less than a factor of ten, so that every slice is to be seen."""
    size = 10 ** rng.randint(0, 3)
    return [rounded(rng.randint(11, 99) * size / 10) for _ in range(count)]
