"""How much of a chart an answer got right, fact by fact."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from vlmpipe.tasks.chart.model import AxisChart, Chart, ChartError, Flowchart, PieChart
from vlmpipe.tasks.chart.parser import parse_chart
from vlmpipe.tasks.text_metrics import composed

TOLERANCE = 0.01
"""Relative: what the eye can read off an axis. Printed numbers have to be exact."""

Key = tuple[str, int, str]
"""Kind of a series, its place among those of that kind, and a label."""

Pairs = Mapping[Key, list[float]]
"""The values of each key, in ascending order."""


def chart_metrics(prediction: str, reference: str, *, printed: bool) -> dict[str, float]:
    """What a Mermaid answer got right, 0 to 1, one metric for each question:

    - `chart_f1`: over all facts, see `chart_f1`.
    - `pairs_f1`: over the (label, value) pairs, those of several series kept apart; for references
      with values only.
    - `nodes_f1`: over the texts of nodes; for flowcharts only.
    - `edges_f1`: over (text of a node, text of the next, label) of arrows; for flowcharts only.
    - `chart_type`: the kinds of its series are the same, in whatever order they are written.
    - `well_formed`: the answer is a chart that this package reads.

    `printed` says whether the reference's values stand in the picture as numbers. All are 0.0 for
    an answer that does not parse; for a reference that does not, `chart_f1` and `chart_type` are,
    and those of one sort of chart are absent.
    """
    answer, truth = _parsed(prediction), _parsed(reference)
    tolerance = 0.0 if printed else TOLERANCE
    return {
        "chart_f1": chart_f1(answer, truth, tolerance) if answer and truth else 0.0,
        **(_parts(answer, truth, tolerance) if truth else {}),
        "chart_type": float(bool(answer and truth and set(_kinds(answer)) == set(_kinds(truth)))),
        "well_formed": float(answer is not None),
    }


def chart_f1(answer: Chart, truth: Chart, tolerance: float) -> float:
    """F1 over all facts: kind, titles, axes, (label, value) pairs, nodes and edges."""
    facts, true_facts = _facts(answer), _facts(truth)
    pairs, true_pairs = _both_pairs(answer, truth)
    right = (facts & true_facts).total() + _matches(pairs, true_pairs, tolerance)
    return _f1(right, facts.total() + _size(pairs), true_facts.total() + _size(true_pairs))


def _parts(answer: Chart | None, truth: Chart, tolerance: float) -> dict[str, float]:
    """The metrics of one sort of chart; 0.0 for an answer of the other sort."""
    if isinstance(truth, Flowchart):
        flow = answer if isinstance(answer, Flowchart) else None
        return {
            "nodes_f1": _overlap(_texts(flow), _texts(truth)) if flow else 0.0,
            "edges_f1": _overlap(_arrows(flow), _arrows(truth)) if flow else 0.0,
        }
    if answer is None or isinstance(answer, Flowchart):
        return {"pairs_f1": 0.0}
    pairs, true_pairs = _both_pairs(answer, truth)
    right = _matches(pairs, true_pairs, tolerance)
    return {"pairs_f1": _f1(right, _size(pairs), _size(true_pairs))}


def _f1(right: int, answered: int, true: int) -> float:
    """Two empty sets are the same."""
    return 2 * right / (answered + true) if answered + true else 1.0


def _overlap(answered: Iterable[Hashable], true: Iterable[Hashable]) -> float:
    """F1 of two multisets."""
    left, right = Counter(answered), Counter(true)
    return _f1((left & right).total(), left.total(), right.total())


def _parsed(text: str) -> Chart | None:
    try:
        return parse_chart(text)
    except ChartError:
        return None


def _facts(chart: Chart) -> Counter[Hashable]:
    """Everything that is right or wrong as a whole."""
    facts: Counter[Hashable] = Counter(("kind", kind) for kind in _kinds(chart))
    if isinstance(chart, Flowchart):
        nodes = [(node.shape, _same(node.text)) for node in chart.nodes]
        links = [edge.link for edge in chart.edges]
        edges = [(*each, link) for each, link in zip(_arrows(chart), links, strict=True)]
        return facts + Counter([("direction", chart.direction), *nodes, *edges])
    named = [("title", chart.title)]
    if isinstance(chart, AxisChart):
        named += [("x-axis", chart.x_title), ("y-axis", chart.y_axis.title)]
        facts.update([chart.y_axis.bounds] if chart.y_axis.bounds else [])
        facts.update(["horizontal"] if chart.horizontal else [])
    return facts + Counter((name, _same(text)) for name, text in named if text)


def _texts(chart: Flowchart) -> list[str]:
    return [_same(node.text) for node in chart.nodes]


def _arrows(chart: Flowchart) -> list[tuple[str, str, str]]:
    texts = _texts(chart)
    return [(texts[e.source], texts[e.target], _same(e.label)) for e in chart.edges]


def _kinds(chart: Chart) -> list[str]:
    """Of each series; a pie and a flowchart have one."""
    if isinstance(chart, AxisChart):
        return [series.kind for series in chart.series]
    return [chart.kind]


def _both_pairs(answer: Chart, truth: Chart) -> tuple[Pairs, Pairs]:
    """Where either has several series, a value under another series is another value. Between
    two charts of one series each, only `chart_type` asks for the kind.
    """
    apart = max(len(_kinds(answer)), len(_kinds(truth))) > 1
    return _pairs(answer, apart=apart), _pairs(truth, apart=apart)


def _pairs(chart: Chart, *, apart: bool) -> Pairs:
    pairs: defaultdict[Key, list[float]] = defaultdict(list)
    met: Counter[str] = Counter()
    for kind, points in _all_points(chart):
        for label, value in points:
            key = (kind, met[kind], _same(label)) if apart else ("", 0, _same(label))
            pairs[key].append(value)
        met[kind] += 1
    return {key: sorted(values) for key, values in pairs.items()}


def _all_points(chart: Chart) -> list[tuple[str, Sequence[tuple[str, float]]]]:
    """Kind and (label, value) pairs of each series."""
    if isinstance(chart, PieChart):
        return [(chart.kind, chart.slices)]
    if isinstance(chart, Flowchart):
        return []
    return [
        (series.kind, list(zip(chart.categories, series.values, strict=True)))
        for series in chart.series
    ]


def _size(pairs: Pairs) -> int:
    return sum(map(len, pairs.values()))


def _matches(pairs: Pairs, truth: Pairs, tolerance: float) -> int:
    """The most pairs that can have a partner each."""
    return sum(
        _near(values, truth[key], tolerance) for key, values in pairs.items() if key in truth
    )


def _near(values: list[float], truth: list[float], tolerance: float) -> int:
    """As many values as can be matched, in both lists ascending. Taking the lowest that fit is
    best: what fits a value is an interval, and both of its ends grow with the value.
    """
    found, left = 0, iter(truth)
    true = next(left, None)
    for value in values:
        while true is not None and true < value and not _close(value, true, tolerance):
            true = next(left, None)
        if true is not None and _close(value, true, tolerance):
            found, true = found + 1, next(left, None)
    return found


def _close(value: float, true: float, tolerance: float) -> bool:
    return abs(value - true) <= tolerance * max(abs(value), abs(true))


def _same(text: str) -> str:
    return " ".join(composed(text).split())
