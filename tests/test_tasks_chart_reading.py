"""Mermaid as models write it: read as Mermaid itself reads it, and never slowly."""

from __future__ import annotations

import html
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vlmpipe.system.mermaid_tool import installed_mermaid, why_no_mermaid
from vlmpipe.tasks.chart.mermaid import is_valid_mermaid
from vlmpipe.tasks.chart.model import AxisChart, Chart, ChartError, Edge, Flowchart, Node, PieChart
from vlmpipe.tasks.chart.parser import MAX_CHARACTERS, parse_chart
from vlmpipe.tasks.chart.writer import BRACKETS, mermaid

needs_parser = pytest.mark.skipif(installed_mermaid() is None, reason=str(why_no_mermaid()))

FLOWS = [
    *(f"A {link} B" for link in ("---", "-.->", "-.-", "==>", "===", "<-->", "--x", "--o", "x--x")),
    *(f"A{link}B" for link in ("-->", "---->", "-..->", "====>", "<-.->", "<==>", "---")),
    *("A -- text --> B", "A -- text --- B", "A == text ==> B", "A -. text .-> B", "A--한글-->B"),
    *("A-.text.->B", 'A -- "x -- y" --> B', "A -->|x y| B", 'A -->|"x | y"|B', "A <-- x --> B"),
    *("A --> B & C --> D", "A & B --> C & D", "A&B --> C", "A --> B; B --> C;", "A-->B;;B-->C"),
    *(f'A{left}"한 글"{right} --> B{left}x y{right}' for left, right in BRACKETS.values()),
    *("A[text\nmore]", 'A["one<br/>two"]', 'A["`in marks`"]', "A[end] --> B[a - b: c, d? 5% #1]"),
    *("A --> end1", "a-b --> c.d --> 시작_1", "A:::big-one-->B\nclassDef big-one fill:#f00"),
    *("A --> B\nstyle A fill:#f9f,stroke:#333;\nlinkStyle 0 stroke:#f00", "A\nclass A,A big"),
    *(
        'A\nclick A "http://x"',
        "accTitle: not drawn\nA",
        "%% A --> B\nC\n  %% D",
        "A-->B\n\n\n   C",
    ),
    *("A -->|a-->b| C", "A e1@--> B", 'A@{ shape: diamond, label: "x y" } --> B', "A ~~~ B"),
    "subgraph one\ndirection LR\nA-->B\nend\nB --> C",
    'subgraph one["A title"]\nsubgraph "two"\nA-->B\nend\nend',
    'subgraph s [x y]\nA\nend; A["last"] --> B["b"]\nA["really last"]',
]
HEADS = ["flowchart TD", "graph LR", "graph TD;", "flowchart BT", "graph RL", "flowchart"]
AXES = [
    'x-axis ["a", "b"]\nbar [1, 2]\nline [2, 3]\nline [-4, +5]',
    "bar [1, 2, 3.5]",
    'x-axis "t" 0 --> 10\nline [1, 2, .5]',
    "x-axis steps 5-->10\nline [1, 2, 3]",
    'x-axis "t"\nbar [1]',
    'x-axis [a-b, c_d, "e f"]; y-axis "r s" -5 --> 5.5; bar "name" [1,2,3] %% said',
    'title "Sales"\nx-axis years [2020, 2021]\ny-axis amount 0-->9\nLINE [1, 2]\n%% [3]',
]
PIES = [
    'pie\n"a" : 1',
    "pie showData\n'a' : 1\n\"b\":0",
    'pie showData title Pets of all\n  "한 글" : 1.5 %% said\n\n"b;c" : 20',
    'pie\n"a" : 1\ntitle Pets\naccDescr: not drawn',
]
WRAPPED = [
    "---\nconfig:\n  theme: dark\n---\n{}",
    "%%{{init: {{'theme': 'dark'}}}}%%\n{}",
    "%% by a model\n\n{}\n",
]
ALL = [
    *(f"{head}\n{flow}" for head, flow in zip(itertools.cycle(HEADS), FLOWS)),
    *(f"xychart-beta\n{text}" for text in AXES),
    f"xychart horizontal\n{AXES[0]}",
    *PIES,
    *(wrap.format(text) for wrap in WRAPPED for text in (f"graph TD\n{FLOWS[0]}", PIES[0])),
]


@needs_parser
def test_what_is_read_here_is_valid_there() -> None:
    assert [text for text in ALL if not is_valid_mermaid(text)] == []


@needs_parser
def test_the_same_is_read_here_and_there(mermaid_says: list[Any]) -> None:
    for text, there in zip(ALL, mermaid_says, strict=True):
        here = parse_chart(text)
        if isinstance(here, Flowchart):
            names = {name: shown(label) for name, label in there["nodes"]}
            edges = [(names[a], names[b], shown(label)) for a, b, label in there["edges"]]
            assert sorted(node.text for node in here.nodes) == sorted(names.values()), text
            assert arrows(here) == ([] if "~~~" in text else edges), text
        else:
            assert series(here) == there["series"], text


@needs_parser
def test_the_written_form_of_whatever_is_read_is_valid_and_reads_the_same() -> None:
    for text in ALL:
        written = mermaid(parse_chart(text))
        assert is_valid_mermaid(written) is True, written
        assert parse_chart(written) == parse_chart(text)


@pytest.fixture(scope="module")
def mermaid_says() -> list[Any]:
    tool = installed_mermaid()
    assert tool is not None
    script = Path(__file__).with_name("mermaid_facts.mjs")
    lines = "".join(json.dumps(text) + "\n" for text in ALL)
    done = subprocess.run(
        [tool.node, script, tool.folder], input=lines, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return list(map(json.loads, done.stdout.splitlines()))


def shown(label: str) -> str:
    return " ".join(html.unescape(label).replace("<br>", " ").strip("`").split())


def arrows(chart: Flowchart) -> list[tuple[str, str, str]]:
    return [(chart.nodes[e.source].text, chart.nodes[e.target].text, e.label) for e in chart.edges]


def series(chart: Chart) -> list[Any]:
    if isinstance(chart, PieChart):
        return [["pie", [list(pair) for pair in chart.slices]]]
    assert isinstance(chart, AxisChart)
    all_series = [(chart.kind, chart.values), *((each.kind, each.values) for each in chart.more)]
    return [
        [kind, [list(pair) for pair in zip(chart.categories, values, strict=True)]]
        for kind, values in all_series
    ]


@pytest.mark.parametrize(
    ("link", "form"),
    [
        ("----->", "-->"),
        ("----", "---"),
        ("-...->", "-.->"),
        ("-..-", "-.-"),
        ("====>", "==>"),
        ("====", "==="),
        ("<-->", "<-->"),
        ("o--o", "o--o"),
        ("x==x", "x==x"),
        ("<-.->", "<-.->"),
        ("o-->", "-->"),
        ("-- x -->", "-->"),
        ("<-- x -->", "<-->"),
        ("-. x .-", "-.-"),
        ("== x ==>", "==>"),
    ],
)
def test_the_same_arrow_longer_is_the_same_arrow(link: str, form: str) -> None:
    chart = parse_chart(f"graph TD\nA {link} B")
    assert isinstance(chart, Flowchart)
    assert [edge.link for edge in chart.edges] == [form]


def test_an_arrow_to_a_subgraph_ends_at_its_title() -> None:
    chart = parse_chart("graph TD\nsubgraph one [All of it]\nA\nend\nB --> one")
    nodes = (Node("box", "A"), Node("box", "B"), Node("box", "All of it"))
    assert chart == Flowchart("TD", nodes, (Edge(1, 2),))


def test_a_title_in_the_front_matter_is_the_chart_s_unless_it_has_one() -> None:
    front = '---\ntitle: "Of the front"\n---\n'
    assert getattr(parse_chart(f"{front}{PIES[0]}"), "title", None) == "Of the front"
    assert getattr(parse_chart(f"{front}{PIES[3]}"), "title", None) == "Pets"


def test_values_without_categories_stand_where_mermaid_puts_them() -> None:
    chart = parse_chart("xychart-beta\nx-axis 10 --> 20\nbar [1, 2, 3]")
    assert isinstance(chart, AxisChart)
    assert chart.categories == ("10", "15", "20")


HEAVY_HEADS = [
    *("flowchart TD\n", "flowchart TD\nA[", "flowchart TD\nA --", "flowchart TD\nA -->|", "%%{"),
    *("flowchart TD\nA@{", "flowchart TD\nsubgraph ", "xychart-beta\nx-axis ", "pie\ntitle "),
    *("xychart-beta\nbar [", "xychart-beta\ny-axis ", 'pie\n"', "---\n", "```"),
]
HEAVY_UNITS = [
    *("a", "a ", "- ", "-", "=", "-.", '"', '" ', "[", "(", "{", "|", "a&", "a & ", "a--", "%%{"),
    *(
        ";",
        "a\n",
        "\n",
        ":",
        "@{",
        "0 ",
        "1.",
        "0 -- ",
        "a,",
        "#",
        "---\n",
        "<",
        "x--",
        "a[",
        "-- a",
    ),
]


def test_no_text_makes_the_reader_slow() -> None:
    # A pattern that tries again and again takes minutes for one of these and fails by the tests'
    # own limit; all of them together take a second.
    for head, unit in itertools.product(HEAVY_HEADS, HEAVY_UNITS):
        text = (head + unit * MAX_CHARACTERS)[: MAX_CHARACTERS - 1] + "!"
        try:
            parse_chart(text)
        except ChartError:
            continue
