"""How much of a chart an answer got right, fact by fact."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Hashable

from vlmpipe.tasks.chart.model import AxisChart, Chart, ChartError, Flowchart, PieChart
from vlmpipe.tasks.chart.parser import parse_chart

TOLERANCE = 0.01
"""Relative: what the eye can read off an axis. Printed numbers have to be exact."""

Pair = tuple[str, float]


def chart_metrics(prediction: str, reference: str, *, printed: bool) -> dict[str, float]:
    """`chart_f1`, `chart_type` and `well_formed` of a Mermaid answer.

    `printed` says whether the reference's values stand in the picture as numbers. All are 0.0 for
    an answer that does not parse; the first two for a reference that does not.
    """
    answer, truth = _parsed(prediction), _parsed(reference)
    comparable = answer is not None and truth is not None
    return {
        "chart_f1": chart_f1(answer, truth, printed=printed) if answer and truth else 0.0,
        "chart_type": float(comparable and _kind(answer) == _kind(truth)),
        "well_formed": float(answer is not None),
    }


def chart_f1(answer: Chart, truth: Chart, *, printed: bool) -> float:
    """F1 over all facts: kind, titles, axes, (label, value) pairs, nodes and edges."""
    facts, true_facts = _facts(answer), _facts(truth)
    pairs, true_pairs = _pairs(answer), _pairs(truth)
    right = (facts & true_facts).total()
    right += _matches(pairs, true_pairs, 0.0 if printed else TOLERANCE)
    return 2 * right / (facts.total() + true_facts.total() + len(pairs) + len(true_pairs))


def _parsed(text: str) -> Chart | None:
    try:
        return parse_chart(text)
    except ChartError:
        return None


def _kind(chart: Chart | None) -> str:
    return chart.kind if chart else ""


def _facts(chart: Chart) -> Counter[Hashable]:
    """Everything that is right or wrong as a whole."""
    facts: Counter[Hashable] = Counter([("kind", chart.kind)])
    if isinstance(chart, Flowchart):
        texts = [(node.shape, _same(node.text)) for node in chart.nodes]
        edges = [(texts[e.source][1], texts[e.target][1], _same(e.label)) for e in chart.edges]
        return facts + Counter([("direction", chart.direction), *texts, *edges])
    named = [("title", chart.title)]
    if isinstance(chart, AxisChart):
        named += [("x-axis", chart.x_title), ("y-axis", chart.y_axis.title)]
        facts.update([chart.y_axis.bounds] if chart.y_axis.bounds else [])
    return facts + Counter((name, _same(text)) for name, text in named if text)


def _pairs(chart: Chart) -> list[Pair]:
    if isinstance(chart, Flowchart):
        return []
    if isinstance(chart, PieChart):
        return [(_same(label), value) for label, value in chart.slices]
    return [
        (_same(label), value) for label, value in zip(chart.categories, chart.values, strict=True)
    ]


def _matches(pairs: list[Pair], truth: list[Pair], tolerance: float) -> int:
    """Pairs that have a partner, each partner once."""
    left = list(pairs)
    for label, value in truth:
        near = [p for p in left if p[0] == label and abs(p[1] - value) <= tolerance * abs(value)]
        if near:
            left.remove(min(near, key=lambda pair: abs(pair[1] - value)))
    return len(pairs) - len(left)


def _same(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
