"""Answers drawn as their tasks render them, beside the reference, and never obeyed."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from functools import cache
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from report_fakes import publish_validate
from test_report import Page
from vlmpipe.evaluation.report import choice, rendering, write_report
from vlmpipe.evaluation.report.differences import marked_text
from vlmpipe.evaluation.report.fragments import (
    GEOMETRY,
    MAX_CHARACTERS,
    PAINT,
    PROSE,
    SHAPES,
    fragment_html,
)
from vlmpipe.evaluation.report.rendering import rendering_of
from vlmpipe.evaluation.report.table_differences import MAX_ROWS, table_departures
from vlmpipe.evaluation.report.untrusted import INLINE, STRUCTURE
from vlmpipe.tasks import TASKS

PAYLOADS = (
    "<script>window.hacked = 1</script>",
    "<img src=https://example.org/a.png onerror=window.hacked=1>",
    "</td></table></svg></pre></main><script>window.hacked = 1</script>",
    "<svg onload=window.hacked=1><a href=javascript:window.hacked=1>x</a></svg>",
    "<style>*{display:none}</style><iframe srcdoc='<script>top.hacked=1</script>'></iframe>",
    "&lt;script&gt;window.hacked = 1&lt;/script&gt;",
)
ACTIVE = {"script", "iframe", "object", "embed", "a", "base", "form", "input", "use", "audio"}
HEAD = Counter(meta=4, link=1, style=1, title=1)
"""The page's own elements that an answer must not add to."""

DRAWN = ("table", "chart", "molecule", "document")


@cache
def reference(task: str) -> str:
    return TASKS[task].generate(0, 1, (0.0, 0.4), ["en"]).reference


@cache
def another(task: str) -> str:
    return TASKS[task].generate(1, 1, (0.0, 0.4), ["en"]).reference


def carrying(task: str, payload: str) -> list[str]:
    """Answers of a task with the payload where it takes free text, and around it."""
    plain = reference(task)
    inside = {
        "table": f"<table><tr><th>{payload}</th><td>{html.escape(payload)}</td></tr></table>",
        "chart": f'pie title {payload}\n    "{payload}" : 3\n    "b" : 5',
        "molecule": f"CCO {payload}",
        "document": json.dumps(json.loads(plain) | {"patient_name": payload})
        if task == "document"
        else "",
    }
    return [payload, plain + payload, payload + plain, inside.get(task, payload)]


def hostile(task: str) -> list[tuple[str, str, str]]:
    """(task, answer, reference) of everything that an answer of it could carry."""
    answers = [each for payload in PAYLOADS for each in carrying(task, payload)]
    return [(task, answer, answers[3]) for answer in answers]


def publish_answers(run, given: list[tuple[str, str, str]]) -> None:
    """A run whose gallery shows these (task, answer, reference)."""
    rows = [
        {
            "sample": f"s{place}",
            "split": "heldout",
            "model": "tuned",
            "task": task,
            "prompt": answer,
            "prediction": answer,
            "reference": expected,
            "metrics": {},
        }
        for place, (task, answer, expected) in enumerate(given)
    ]
    folder = publish_validate(run, rows)
    results = json.loads((folder / "results.json").read_text())
    results["gallery"] = [
        {"sample": row["sample"], "split": "heldout", "pictures": []} for row in rows
    ]
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose gallery shows every sample."""
    monkeypatch.setattr(choice, "PER_GROUP", 1000)
    return tmp_path / "outputs" / "demo"


@pytest.mark.parametrize("task", TASKS)
def test_answers_of_every_task_that_carry_script_are_inert(run, task):
    publish_answers(run, hostile(task))
    page = Page(write_report(run))
    assert page.tags().isdisjoint(ACTIVE)
    assert Counter(tag for tag, _ in page.elements if tag in HEAD) == HEAD
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        for name in ("src", "href", "xlink:href", "srcset", "action", "srcdoc"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "window.hacked = 1" in page.text


@pytest.mark.parametrize("payload", PAYLOADS[:5])
def test_a_task_that_forgets_to_escape_does_no_harm(monkeypatch, payload):
    class Careless:
        def render(self, answer):
            return f"<table onclick=x()><tr><td>{answer}</td></tr></table>"

    monkeypatch.setattr(rendering, "task_of", lambda name: Careless())
    page = Elements(str(rendering_of("table", payload).drawn))
    assert {tag for tag, _ in page.found} <= {"table", "tr", "td", "svg"}
    assert all(set(attributes) <= {"viewbox"} for _, attributes in page.found)


def drawings(page: str) -> list[str]:
    return re.findall(r'<div class="drawn"[^>]*>(.*?)</div>', page, re.DOTALL)


@pytest.mark.parametrize("task", DRAWN)
def test_a_rendered_answer_stands_beside_the_rendered_reference(run, task):
    given, other = reference(task), another(task)
    publish_answers(run, [(task, other, given)])
    page = write_report(run).read_text()
    shown = drawings(page)
    assert len(shown) == 2
    assert all(re.search(r"<t[dh]|<path|<rect", each) for each in shown)
    assert page.count("<summary>as text</summary>") == 2
    assert "not in the task" not in page
    for text in (given, other):
        assert html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in page


@pytest.mark.parametrize("task", DRAWN)
def test_an_answer_equal_to_the_reference_is_named_and_not_drawn_again(run, task):
    given = reference(task)
    publish_answers(run, [(task, f" {given}\n", given)])
    page = write_report(run).read_text()
    assert len(drawings(page)) == 1
    assert "Answered just so</span> by tuned" in page


@pytest.mark.parametrize("task", DRAWN)
def test_an_answer_that_is_not_in_the_format_says_so_and_is_shown_as_text(run, task):
    publish_answers(run, [(task, "I cannot read this )(", reference(task))])
    page = write_report(run).read_text()
    assert page.count("not in the task's format") == 1
    assert len(drawings(page)) == 1
    assert "I cannot read this )(" in page


def test_prose_is_shown_as_text_with_its_departures_marked():
    shown = rendering_of("qa", "git is a slow tool", "git is a fast tool")
    assert shown.drawn is None
    assert shown.marked == "git is a <mark>slow</mark> tool"
    assert shown.readable


def test_a_table_of_a_task_without_a_room_here_is_drawn():
    shown = rendering_of("receipts", "a <table><tr><td>1", "a <table><tr><td>2")
    assert shown.drawn == 'a <table><tr><td class="off">1</td></tr></table>'


def test_a_report_needs_no_library_that_reads_answers(monkeypatch):
    class Unread:
        def render(self, answer):
            raise ImportError("rdkit")

    monkeypatch.setattr(rendering, "task_of", lambda name: Unread())
    shown = rendering_of("molecule", "CCO", "CCN")
    assert shown.drawn is None
    assert shown.readable


def test_cells_that_differ_from_the_reference_are_marked_in_the_rendered_table():
    given = "<table><thead><tr><td>a</td></tr></thead><tbody><tr><td>1</td></tr></tbody></table>"
    shown = rendering_of("table", given.replace("1", "2"), given)
    assert shown.drawn == ('<table><tr><th>a</th></tr><tr><td class="off">2</td></tr></table>')


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("ab", {(1, 0)}),
        ("xab", {(0, 0), (2, 0)}),
        ("b", {(0, 0)}),
        ("ac", set()),
        ("c", set()),
    ],
)
def test_a_row_too_many_or_too_few_marks_itself_alone(rows, expected):
    assert table_departures(table(*rows), table(*"ac")).cells == expected


def table(*rows: str) -> str:
    """Words of a row are its cells; `a:2` covers two columns."""
    cells = [
        "".join(re.sub(r"^(\w+):(\d)$", r"<td colspan=\2>\1</td>", word) if ":" in word
                else f"<td>{word}</td>" for word in row.split())
        for row in rows
    ]  # fmt: skip
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


@pytest.mark.parametrize(
    ("answer", "marked", "missing"),
    [
        (["a b c", "1 2 3"], set(), "1 row"),
        (["a b c"], set(), "2 rows"),
        (["a c", "1 3", "4 6"], set(), "1 column"),
        (["a", "1", "4"], set(), "2 columns"),
        (["a b c", "1 2 3", "4 6"], set(), "1 cell"),
        (["a c", "4 6"], set(), "1 row, 1 column"),
        (["a b c", "4 5 x"], {(1, 2)}, "1 row"),
        (["a:2 b c", "1 2 3", "4 5 6"], {(0, 0)}, ""),
        (["a b c x", "1 2 3", "4 5 6"], {(0, 3)}, ""),
        (["a b c", "1 2 3", "4 5 6"], set(), ""),
        ([], set(), "3 rows"),
    ],
)
def test_what_a_table_lacks_is_told_and_what_it_says_otherwise_is_marked(
    answer: list[str], marked: set[tuple[int, int]], missing: str
):
    found = table_departures(table(*answer), table("a b c", "1 2 3", "4 5 6"))
    assert (found.cells, found.missing, found.unmarked) == (marked, missing, "")


def test_a_span_that_is_missing_marks_its_cell():
    found = table_departures(table("a b", "1 2 3"), table("a:2 b", "1 2 3"))
    assert found.cells == {(0, 0)}


def test_the_page_says_what_is_missing_from_a_table(run):
    whole = table("a b c", "1 2 3", "4 5 6")
    answers = (table("a c", "1 3"), whole.replace("6", "7"))
    publish_answers(run, [("table", answer, whole) for answer in answers])
    page = write_report(run).read_text()
    assert "<mark>1 row, 1 column missing</mark>" in page
    assert page.count("missing</mark>") == 1


@pytest.mark.parametrize("cell", ["", "<td>"])
def test_tables_of_very_many_rows_are_not_marked_and_say_so(run, cell):
    rows = [f"<tr>{cell}" * count for count in (MAX_ROWS, MAX_ROWS + 1)]
    found = table_departures(rows[1], rows[0])
    assert (found.cells, found.missing) == (set(), "")
    assert table_departures(rows[0], rows[0]).unmarked == ""
    shown = f"<table>{rows[1]}<td>1"
    publish_answers(run, [("receipts", shown, shown + "2")])
    assert f"nothing is marked: more than {MAX_ROWS} rows" in write_report(run).read_text()


def test_texts_of_many_words_with_nothing_but_white_space_in_common_are_left_unmarked():
    ours, theirs = (" ".join(f"{name}{n}" for n in range(700)) for name in "ab")
    assert marked_text(ours, theirs) is None
    assert marked_text(ours, ours.replace("a9 ", "b9 ")).count("<mark>") == 1


class Elements(HTMLParser):
    """Names and attributes of every element; each must be closed in its turn."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


WORDS = st.lists(
    st.sampled_from(
        ["<svg ", "<g ", "<path ", "<table>", "<td ", "<p>", "<br>", "<a ", "<script>", "<use ",
         "<text ", "<foreignObject>", "<style>", "</svg>", "</p>", "</table>", "</script>", ">",
         "/>", "fill='url(#a)' ", 'style="fill:red;background:url(//x)" ', "onload=x() ", "x='1' ",
         "href='//x' ", "xlink:href=data:x ", "colspan=2 ", "d='M 1,2 L 3 4' ", "words & ", "<!--",
         "-->", "<?pi ?>", "<![CDATA[", "]]>", "d=\"M'\" ", "transform='rotate(1 2 3)' "]
    ),
    max_size=25,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(WORDS)
def test_a_fragment_of_any_markup_holds_only_what_can_do_no_more_than_look(words):
    markup = fragment_html("".join(words))
    page = Elements(markup)
    assert page.open == []
    assert {tag for tag, _ in page.found} <= PROSE | STRUCTURE | INLINE | SHAPES | {"svg"}
    for _, attributes in page.found:
        assert set(attributes) <= GEOMETRY | PAINT | {"colspan", "rowspan"}
        assert not re.search(r"url|[:/\"'<>;]", " ".join(map(str, attributes.values())))


@pytest.mark.parametrize(
    "attribute",
    [
        'fill="url(#a)"',
        'fill="URL(//example.org)"',
        'style="fill:url(//example.org)"',
        "x='1\" onload=\"x()'",
        "d='M 1&quot; onload=&quot;x()'",
        'stroke="&lt;script&gt;"',
        'font-family="a;b:c"',
    ],
)
def test_a_value_that_names_an_address_or_ends_its_attribute_is_left_out(attribute):
    assert fragment_html(f"<svg width=1 height=1><rect {attribute}/></svg>") == (
        '<svg width="1" height="1" viewbox="0 0 1 1"><rect></rect></svg>'
    )


def test_a_drawing_keeps_its_geometry_and_colours():
    path = '<path d="M 1,2 L 3 4" style="fill:none;stroke:#000"/>'
    drawing = f'<svg width="10" viewBox="0 0 1 1">{path}</svg>'
    assert fragment_html(f"<?xml version='1.0'?>{drawing}<!-- end -->") == (
        '<svg width="10" viewbox="0 0 1 1">'
        '<path d="M 1,2 L 3 4" fill="none" stroke="#000"></path></svg>'
    )


def test_a_drawing_that_names_no_view_has_its_size_for_one_so_that_it_can_shrink():
    drawn = fragment_html('<svg width="360" height="44"></svg>')
    assert drawn == '<svg width="360" height="44" viewbox="0 0 360 44"></svg>'


def test_a_drawing_beyond_the_limit_is_left_as_text():
    assert fragment_html("<p>" + "a" * MAX_CHARACTERS) is None
