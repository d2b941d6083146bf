"""Charts in Mermaid: written and read back, scored fact by fact, safe with any answer."""

from __future__ import annotations

import dataclasses
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmpipe.tasks.base import Language
from vlmpipe.tasks.chart.difficulty import chart_difficulty
from vlmpipe.tasks.chart.flow_synthetic import random_flow
from vlmpipe.tasks.chart.metrics import chart_metrics
from vlmpipe.tasks.chart.model import (
    Axis,
    AxisChart,
    Chart,
    ChartError,
    Edge,
    Flowchart,
    Node,
    PieChart,
)
from vlmpipe.tasks.chart.parser import MAX_CHARACTERS, parse_chart
from vlmpipe.tasks.chart.render import render_chart
from vlmpipe.tasks.chart.synthetic import random_axis_chart, random_pie
from vlmpipe.tasks.chart.writer import mermaid, node_id

KINDS = ("bar", "line", "pie", "flowchart")
BARS = AxisChart("bar", ("north", "south"), (40.0, 22.5), "Sales", "", Axis("units", (0.0, 50.0)))
FLOW = Flowchart(
    "TD",
    (Node("box", "Start"), Node("diamond", "Ready?"), Node("stadium", "End")),
    (Edge(0, 1), Edge(1, 2, "yes"), Edge(1, 0, "no")),
)
LABEL = st.text(min_size=1, max_size=12).map(lambda text: " ".join(text.split())).filter(bool)


def chart_of(kind: str, seed: int, difficulty: float, language: Language = "en") -> Chart:
    rng = random.Random(f"{kind}:{seed}")
    if kind == "flowchart":
        return random_flow(rng, language, difficulty).chart
    if kind == "pie":
        return random_pie(rng, language, difficulty)
    return random_axis_chart(rng, "bar" if kind == "bar" else "line", language, difficulty)


def f1(prediction: Chart | str, reference: Chart, *, printed: bool = True) -> float:
    text = prediction if isinstance(prediction, str) else mermaid(prediction)
    return chart_metrics(text, mermaid(reference), printed=printed)["chart_f1"]


def test_the_written_form() -> None:
    assert mermaid(BARS) == (
        'xychart-beta\ntitle "Sales"\nx-axis ["north", "south"]\n'
        'y-axis "units" 0 --> 50\nbar [40, 22.5]'
    )
    assert mermaid(PieChart((("a", 40.0), ("한글", 60.0)), "Pets")) == (
        'pie title Pets\n"a" : 40\n"한글" : 60'
    )
    assert mermaid(FLOW) == (
        'flowchart TD\nA["Start"]\nB{"Ready?"}\nC(["End"])\nA --> B\nB -->|"yes"| C\nB -->|"no"| A'
    )


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from(["en", "ko"]))
@settings(deadline=None, max_examples=25)
def test_generated_charts_come_back_as_they_were(
    kind: str, seed: int, difficulty: float, language: Language
) -> None:
    chart = chart_of(kind, seed, difficulty, language)
    assert parse_chart(mermaid(chart)) == chart
    assert f1(chart, chart) == 1.0


@given(st.lists(LABEL, min_size=1, max_size=4), LABEL)
@settings(deadline=None, max_examples=25)
def test_any_label_comes_back(names: list[str], title: str) -> None:
    bars = AxisChart("bar", tuple(names), tuple(map(float, range(len(names)))), title)
    flow = Flowchart("LR", tuple(Node("diamond", name) for name in names), (Edge(0, 0, title),))
    for chart in (bars, flow, PieChart(tuple((name, 1.0) for name in names), title)):
        again = parse_chart(mermaid(chart))
        assert mermaid(again) == mermaid(parse_chart(mermaid(again)))
        assert f1(chart, chart) == 1.0


def test_white_space_and_other_spellings_of_the_same_chart_are_read() -> None:
    assert (
        parse_chart(
            '```mermaid\n  xychart-beta\n\n title   "Sales"\nx-axis [ north ,"south"  ]\n'
            '  y-axis "units" 0-->50\n  bar [40.0,22.5 ]\n```'
        )
        == BARS
    )
    assert parse_chart("graph TB\n s[Start]-->q{Ready?} -- yes --> e([End]);\nq -->|no| s\n") == (
        dataclasses.replace(FLOW)
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing of the kind",
        "xychart-beta\nx-axis [북, 남]\nbar [1, 2]",
        'xychart-beta\nx-axis ["a", "b"]\nbar [1]',
        'xychart-beta\nx-axis ["a"]\nbar [1]\nbar [2, 3]',
        'xychart-beta\nx-axis ["a"]\ny-axis 0 --> 5',
        'flowchart TD\nA["x"] B["y"]',
        "flowchart TD\nA --> B\nend",
        "flowchart TD\nsubgraph one\nA --> B",
        "flowchart TD\n" + " --> ".join([" & ".join("abcdefghijklmnopqrstuvw")] * 2),
        'xychart-beta\nx-axis ["a"]\nbar [1e400]',
        'pie\n"a" : -1',
        "pie title x",
        "flowchart TD",
        'flowchart TD\nA["x"] -> B',
        'flowchart TD\nend["x"]',
        "flowchart TD\n" + "A-->B\n" * MAX_CHARACTERS,
        "```mermaid\npie",
        "```" + "\n" * 19_000 + "x```",
        "flowchart TD\nA -->|" + " " * 19_000 + "(",
        "flowchart TD\nA -- " + "a " * 9_000 + "(",
        "xychart-beta\nx-axis" + " " * 19_000 + "[",
    ],
)
def test_what_is_no_chart_is_refused_and_scores_nothing(text: str) -> None:
    with pytest.raises(ChartError):
        parse_chart(text)
    assert set(chart_metrics(text, mermaid(BARS), printed=True).values()) == {0.0}


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=25)
def test_garbage_is_never_more_than_refused(text: str) -> None:
    for head in ("", "pie title ", "flowchart TD\n", "xychart-beta\n"):
        assert 0.0 <= chart_metrics(head + text, mermaid(FLOW), printed=True)["chart_f1"] <= 1.0


def test_printed_values_count_when_exact_and_others_within_one_percent() -> None:
    near = dataclasses.replace(BARS, values=(40.3, 22.5))
    far = dataclasses.replace(BARS, values=(41.0, 22.5))
    assert f1(near, BARS, printed=False) == 1.0
    assert f1(near, BARS, printed=True) == f1(far, BARS, printed=False)
    assert f1(far, BARS, printed=False) == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    "change",
    [
        {"title": "Salt"},
        {"kind": "line"},
        {"categories": ("north", "west")},
        {"values": (22.5, 40.0)},
        {"y_axis": Axis("units", (0.0, 60.0))},
        {"y_axis": Axis("tons", (0.0, 50.0))},
        {"x_title": "region"},
    ],
)
def test_every_part_of_a_bar_chart_counts(change: dict[str, object]) -> None:
    assert 0.0 < f1(dataclasses.replace(BARS, **change), BARS) < 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"direction": "LR"},
        {"edges": FLOW.edges[:2]},
        {"edges": (*FLOW.edges[:2], Edge(0, 1, "no"))},
        {"edges": (*FLOW.edges[:2], Edge(1, 0, "maybe"))},
        {"nodes": (*FLOW.nodes[:2], Node("box", "End"))},
    ],
)
def test_every_part_of_a_flowchart_counts(change: dict[str, object]) -> None:
    assert 0.0 < f1(dataclasses.replace(FLOW, **change), FLOW) < 1.0  # type: ignore[arg-type]


def test_the_order_of_nodes_and_their_ids_do_not_count() -> None:
    assert (
        f1('flowchart TD\nx(["End"])\ny{"Ready?"}-->|"yes"|x\nz["Start"]-->y\ny-->|"no"|z', FLOW)
        == 1.0
    )


def test_the_type_of_a_chart_is_scored_apart() -> None:
    pie = mermaid(PieChart((("a", 1.0),)))
    assert chart_metrics(pie, mermaid(BARS), printed=True) == {
        "chart_f1": 0.0,
        "pairs_f1": 0.0,
        "chart_type": 0.0,
        "well_formed": 1.0,
    }


def test_ids_go_on_after_z() -> None:
    assert [node_id(place) for place in (0, 25, 26, 27, 52)] == ["A", "Z", "AA", "AB", "BA"]


@pytest.mark.parametrize("kind", KINDS)
def test_more_parts_and_longer_texts_are_harder(kind: str) -> None:
    means = [
        sum(chart_difficulty(chart_of(kind, seed, level)) for seed in range(10)) / 10
        for level in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert means == sorted(means)
    assert means[0] < 0.1
    assert means[-1] > 0.9
    assert chart_difficulty(dataclasses.replace(BARS, title="Sales of the year")) > (
        chart_difficulty(BARS)
    )


@pytest.mark.parametrize("language", ["en", "ko"])
def test_runs_of_boxes_do_not_share_a_spot_and_texts_are_unique(language: Language) -> None:
    for seed in range(30):
        plan = random_flow(random.Random(seed), language, seed / 29)
        assert len(set(plan.spots)) == len(plan.spots) == len(plan.chart.nodes)
        assert len({node.text for node in plan.chart.nodes}) == len(plan.chart.nodes)
        reached = {edge.target for edge in plan.chart.edges}
        assert reached >= set(range(1, len(plan.chart.nodes)))


def test_scripts_in_an_answer_are_shown_as_text() -> None:
    evil = '<script src="http://x.test/a.js" onload=alert(1)>'
    quoted = evil.replace('"', "#quot;")
    for text in (
        f'xychart-beta\ntitle "{quoted}"\nx-axis "{quoted}" ["{quoted}"]\nbar [1]',
        f'pie title {quoted}\n"{quoted}" : 1',
        f'flowchart TD\nA["{quoted}"] -->|"{quoted}"| A',
    ):
        shown = render_chart(parse_chart(text))
        tags = re.findall(r"<[^>]*>", shown)
        assert "&lt;script" in shown
        assert not re.search(r"script|http|onload", "".join(tags))
