"""What a model writes is drawn, never obeyed."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from vlmpipe.evaluation.report.differences import marked_text
from vlmpipe.evaluation.report.table_differences import table_cells, table_departures
from vlmpipe.evaluation.report.untrusted import holds_table, table_html

HOSTILE = [
    "<table><tr><td><script>window.hacked = 1</script></td></tr></table>",
    '<table onmouseover="x()"><tr><td onclick="x()" style="position:fixed">1</td></tr></table>',
    '<table><tr><td><img src="https://example.org/a.png" onerror="x()"></td></tr></table>',
    '<table><tr><td colspan="2&quot; onclick=&quot;x()">1</td></tr></table>',
    '<table><tr><td colspan="999999999">1</td></tr></table>',
    "<table></table></div></main></body><script>window.hacked = 1</script>",
    "<table><!-- --><iframe srcdoc='<script>x()</script>'></iframe>",
    "<table><tr><td><a href='javascript:x()'>go</a><svg onload=x()>",
    "<table><style>body{display:none}</style><meta http-equiv=refresh content=0>",
    "<table><![CDATA[<script>x()</script>]]><?php <script> ?><!DOCTYPE x [<script>]>",
    "<table><textarea><title><plaintext><noscript>",
    "<TABLE><TR><TD><ScRiPt>x()</sCrIpT>",
    "<table><tr><td>&lt;script&gt;x()&lt;/script&gt;</td></tr></table>",
    "<table" + "><tr><td><table" * 500 + ">",
    "<table><tr><td><script",
]


class Elements(HTMLParser):
    """Names and attributes of every element, and how deep they end."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("text", HOSTILE)
def test_only_bare_table_elements_remain_and_all_are_closed(text):
    page = Elements(table_html(text))
    allowed = {"table", "thead", "tbody", "tfoot", "tr", "td", "th", "b", "i", "sup", "sub"}
    assert {tag for tag, _ in page.found} <= allowed
    for _, attributes in page.found:
        assert set(attributes) <= {"colspan", "rowspan"}
        assert all(value.isdigit() and int(value) <= 100 for value in attributes.values())
    assert page.open == []


def test_spans_and_text_survive():
    text = '<table><tr><td colspan="2" class="x">p &lt; 0.05</td><th rowspan=3>가</th></tr></table>'
    assert table_html(text) == (
        '<table><tr><td colspan="2">p &lt; 0.05</td><th rowspan="3">가</th></tr></table>'
    )


def test_what_is_no_table_element_is_shown_as_text():
    html = table_html("<table><tr><td><font>1</font></td></tr></table>")
    assert html == "<table><tr><td>&lt;font&gt;1&lt;/font&gt;</td></tr></table>"


def test_an_unfinished_table_is_closed():
    assert table_html("<table><tr><td>1") == "<table><tr><td>1</td></tr></table>"


@pytest.mark.parametrize("text,expected", [("a <table> b", True), ("<tablet>", False), ("", False)])
def test_a_table_is_recognised_by_its_beginning(text, expected):
    assert holds_table(text) is expected


def test_cells_that_read_otherwise_are_found_and_marked():
    reference = "<table><tr><td>a</td><td><b>1 </b></td></tr><tr><td>b</td></tr></table>"
    answer = "<table><tr><td>a</td><td>1</td></tr><tr><td>c</td><td>2</td></tr></table>"
    assert [[cell.text for cell in row] for row in table_cells(reference)] == [["a", "1"], ["b"]]
    assert table_departures(answer, reference).cells == {(1, 0), (1, 1)}
    marked = table_html(answer, table_departures(answer, reference).cells)
    assert marked.count('<td class="off">') == 2
    assert '<td class="off">c</td>' in marked


def test_words_that_differ_are_marked_and_escaped():
    marked = marked_text("git is a <b>fast</b> tool", "git is a <b>slow</b> tool")
    assert marked == "git is a &lt;b&gt;<mark>fast</mark>&lt;/b&gt; tool"


def test_words_that_are_missing_leave_a_mark():
    assert marked_text("one two", "one two three") == "one two<mark>…</mark>"


@pytest.mark.parametrize("text", ["one two three", "wholly other words here", ""])
def test_equal_or_unrelated_texts_are_not_marked(text):
    assert marked_text(text, "one two three") is None
