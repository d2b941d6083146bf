"""What a chart's metrics count: hand-worked cases, and what holds for all charts."""

from __future__ import annotations

import random
import unicodedata
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmpipe.tasks.chart.flow_synthetic import random_flow
from vlmpipe.tasks.chart.metrics import TOLERANCE, _close, _near, chart_metrics
from vlmpipe.tasks.chart.model import Chart
from vlmpipe.tasks.chart.synthetic import random_axis_chart, random_pie
from vlmpipe.tasks.chart.writer import mermaid

BARS = 'xychart-beta\ntitle "Sales"\nx-axis ["north", "south", "west"]\nbar [40, 22.5, 8]'
PIE = 'pie title Sales\n"north" : 40\n"south" : 22.5\n"west" : 8'
FLOW = 'flowchart TD\nA["Start"] --> B{"Ready?"}\nB -->|"yes"| C["End"]\nB -->|"no"| A'
OF_VALUES = {"chart_f1", "pairs_f1", "chart_type", "well_formed"}
OF_FLOWS = {"chart_f1", "nodes_f1", "edges_f1", "chart_type", "well_formed"}


def measured(prediction: str, reference: str, *, printed: bool = True) -> dict[str, float]:
    return chart_metrics(prediction, reference, printed=printed)


@pytest.mark.parametrize("prediction", [BARS, PIE, FLOW, "nothing", ""])
def test_only_the_metrics_of_the_reference_are_there(prediction: str) -> None:
    assert set(measured(prediction, BARS)) == OF_VALUES
    assert set(measured(prediction, PIE)) == OF_VALUES
    assert set(measured(prediction, FLOW)) == OF_FLOWS
    assert set(measured(prediction, "no chart")) == {"chart_f1", "chart_type", "well_formed"}


@pytest.mark.parametrize(
    ("change", "right", "answered"),
    [
        (("", ""), 3, 3),
        (("22.5", "22.4"), 2, 3),
        (("north", "North"), 2, 3),
        (('"north", "south"', '"south", "north"'), 1, 3),
        (('"north", "south", "west"]\nbar [40, 22.5, 8]', '"north"]\nbar [40]'), 1, 1),
        (('"west"]\nbar [40, 22.5, 8]', '"west", "a"]\nbar [40, 22.5, 8, 1]'), 3, 4),
        (("Sales", "Salt"), 3, 3),
        (("bar", "line"), 3, 3),
        (("8]", "8]\nline [1, 2, 3]"), 3, 6),
    ],
)
def test_pairs_are_counted_by_hand(change: tuple[str, str], right: int, answered: int) -> None:
    scores = measured(BARS.replace(*change), BARS)
    assert scores["pairs_f1"] == pytest.approx(2 * right / (answered + 3))


def test_a_chart_of_another_kind_keeps_its_pairs_and_loses_its_type() -> None:
    scores = measured(PIE, BARS)
    assert (scores["pairs_f1"], scores["chart_type"]) == (1.0, 0.0)
    # Right: the title and three pairs, of kind, title and three pairs on either side.
    assert scores["chart_f1"] == pytest.approx(2 * 4 / 10)


TWO = 'xychart-beta\nx-axis ["a", "b"]\nbar [1, 2]\nline [3, 4]'


@pytest.mark.parametrize(
    ("series", "right", "kinds", "answered"),
    [
        ("line [3, 4]\nbar [1, 2]", 4, 2, 2),
        ("bar [3, 4]\nline [1, 2]", 0, 2, 2),
        ("bar [1, 4]\nline [3, 2]", 2, 2, 2),
        ("bar [1, 2]\nbar [3, 4]", 2, 1, 2),
        ("bar [1, 2]", 2, 1, 1),
        ("line [1, 2]", 0, 1, 1),
        ("bar [1, 2]\nline [3, 4]\nline [3, 4]", 4, 2, 3),
    ],
)
def test_values_under_another_series_are_wrong_and_the_order_of_series_is_free(
    series: str, right: int, kinds: int, answered: int
) -> None:
    answer = TWO.partition("bar")[0] + series
    scores, back = measured(answer, TWO), measured(TWO, answer)
    assert scores["pairs_f1"] == pytest.approx(2 * right / (2 * answered + 4))
    # A kind for each series beside the pairs.
    assert scores["chart_f1"] == pytest.approx(2 * (right + kinds) / (3 * answered + 6))
    assert scores["chart_type"] == float({"bar", "line"} <= set(series.split()))
    assert scores == pytest.approx(back)


def test_series_of_one_kind_are_told_apart_by_their_order() -> None:
    lines = TWO.replace("bar", "line")
    assert measured(lines, lines)["chart_f1"] == 1.0
    swapped = 'xychart-beta\nx-axis ["a", "b"]\nline [3, 4]\nline [1, 2]'
    assert measured(swapped, lines)["pairs_f1"] == 0.0
    assert measured(swapped, lines)["chart_type"] == 1.0


@pytest.mark.parametrize(
    ("change", "nodes", "edges"),
    [
        (("", ""), 1.0, 1.0),
        (("Ready?", "Steady?"), 2 / 3, 0.0),
        (('|"yes"|', '|"aye"|'), 1.0, 2 / 3),
        (('|"yes"| ', ""), 1.0, 2 / 3),
        (('\nB -->|"no"| A', ""), 1.0, 2 * 2 / 5),
        (('{"Ready?"}', '["Ready?"]'), 1.0, 1.0),
        (("-->", "-.->"), 1.0, 1.0),
        (("TD", "LR"), 1.0, 1.0),
        (("A", "Z"), 1.0, 1.0),
        (("flowchart TD", 'flowchart TD\nD["More"] --> A'), 2 * 3 / 7, 2 * 3 / 7),
    ],
)
def test_nodes_and_arrows_are_counted_by_hand(
    change: tuple[str, str], nodes: float, edges: float
) -> None:
    scores = measured(FLOW.replace(*change), FLOW)
    assert scores["nodes_f1"] == pytest.approx(nodes)
    assert scores["edges_f1"] == pytest.approx(edges)


@pytest.mark.parametrize("change", [('{"Ready?"}', '["Ready?"]'), ("-->", "-.->"), ("TD", "LR")])
def test_shape_link_and_direction_count_in_the_whole(change: tuple[str, str]) -> None:
    assert 0.0 < measured(FLOW.replace(*change), FLOW)["chart_f1"] < 1.0


@pytest.mark.parametrize(("answer", "truth"), [(FLOW, BARS), (BARS, FLOW), (PIE, FLOW)])
def test_an_answer_of_the_other_sort_scores_nothing_in_its_parts(answer: str, truth: str) -> None:
    scores = measured(answer, truth)
    parts = {name: scores[name] for name in ("pairs_f1", "nodes_f1", "edges_f1") if name in scores}
    assert set(parts.values()) == {0.0}
    assert (scores["chart_type"], scores["well_formed"]) == (0.0, 1.0)


def test_two_charts_without_arrows_agree_and_one_with_does_not() -> None:
    lone = 'flowchart TD\nA["x"]'
    assert measured(lone, lone)["edges_f1"] == 1.0
    assert measured(f"{lone}\nA --> A", lone)["edges_f1"] == 0.0
    assert measured(lone, f"{lone}\nA --> A")["edges_f1"] == 0.0


def test_decomposed_hangul_and_white_space_do_not_count() -> None:
    for text in (BARS, PIE, FLOW):
        korean = text.replace("north", "한글  말").replace("Start", "한글  말")
        again = unicodedata.normalize("NFD", korean.replace("한글  말", " 한글 말 "))
        scores = measured(again, korean)
        assert {scores[name] for name in scores} == {1.0}


def test_equal_labels_are_each_matched_once() -> None:
    twice = 'xychart-beta\nx-axis ["a", "a", "a"]\nbar [1, 1, 2]'
    once = 'xychart-beta\nx-axis ["a", "a", "a"]\nbar [1, 2, 2]'
    assert measured(twice, once)["pairs_f1"] == pytest.approx(2 * 2 / 6)
    loop = 'flowchart TD\nA["x"] --> A\nA --> A'
    assert measured('flowchart TD\nA["x"] --> A', loop)["edges_f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("value", ["40", "39.7", "40.3"])
def test_values_read_off_an_axis_may_be_one_percent_off(value: str) -> None:
    near = BARS.replace("40", value)
    assert measured(near, BARS, printed=False)["pairs_f1"] == 1.0
    assert (measured(near, BARS)["pairs_f1"] == 1.0) is (value == "40")
    assert measured(BARS.replace("40", "41"), BARS, printed=False)["pairs_f1"] < 1.0


def test_one_percent_is_of_the_larger_value_from_either_side() -> None:
    hundred, less = (BARS.replace("40", value) for value in ("100", "99"))
    assert measured(hundred, less, printed=False)["pairs_f1"] == 1.0
    assert measured(less, hundred, printed=False)["pairs_f1"] == 1.0


VALUES = st.lists(st.sampled_from([-101, -100, -99, 0, 99, 99.5, 100, 101, 102, 103]), max_size=5)


@given(VALUES, VALUES)
@settings(deadline=None)
def test_as_many_values_are_matched_as_can_be(left: list[float], right: list[float]) -> None:
    found = _near(sorted(left), sorted(right), TOLERANCE)
    short, long = sorted((left, right), key=len)
    assert found == max(
        sum(_close(a, b, TOLERANCE) for a, b in zip(short, order, strict=True))
        for order in permutations(long, len(short))
    )


def chart_of(seed: int) -> Chart:
    rng = random.Random(seed)
    kind, language, level = rng.choice("blpf"), rng.choice(["en", "ko"]), rng.random()
    if kind == "f":
        return random_flow(rng, language, level).chart
    if kind == "p":
        return random_pie(rng, language, level)
    return random_axis_chart(rng, "bar" if kind == "b" else "line", language, level)


def mutated(text: str, seed: int) -> str:
    """The chart with some of its lines dropped, doubled or from another chart."""
    rng = random.Random(seed)
    head, *lines = text.split("\n")
    other = mermaid(chart_of(seed)).split("\n")[1:]
    return "\n".join([head, *rng.choices(lines + other[:2], k=max(1, len(lines) - 1))])


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_chart_is_itself_scores_are_shares_and_f1_is_symmetric(
    seed: int, other: int, printed: bool
) -> None:
    text = mermaid(chart_of(seed))
    assert set(measured(text, text, printed=printed).values()) == {1.0}
    answer = mutated(text, other)
    there, back = measured(answer, text, printed=printed), measured(text, answer, printed=printed)
    for name in there:
        assert 0.0 <= there[name] <= 1.0
    if there["well_formed"] and set(there) == set(back):
        f1 = [name for name in there if name.endswith("_f1")]
        assert [there[name] for name in f1] == pytest.approx([back[name] for name in f1])


@given(st.text(max_size=300), st.sampled_from([BARS, PIE, FLOW]))
@settings(deadline=None, max_examples=60)
def test_any_text_gets_its_scores(noise: str, reference: str) -> None:
    place = len(noise) % len(reference)
    for answer in (noise, reference[:place] + noise + reference[place:]):
        assert all(0.0 <= score <= 1.0 for score in measured(answer, reference).values())
        assert all(0.0 <= score <= 1.0 for score in measured(reference, answer).values())
