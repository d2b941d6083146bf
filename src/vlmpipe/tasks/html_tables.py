"""The first table of an HTML text, as a tree of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmpipe.tasks.text_metrics import composed

if TYPE_CHECKING:
    from lxml.html import HtmlElement

MAX_DEPTH = 64
"""Elements nested deeper than this are no table that a person would draw."""

MAX_ELEMENTS = 20_000
"""More elements than any page holds: an answer that repeats itself. Measures stay within a second
or two."""

MAX_SPAN = 1000
"""Largest colspan; the HTML standard's own limit."""


class TableError(ValueError):
    """The text holds no table that can be compared; the message says why."""


@dataclass(frozen=True)
class Node:
    """An element of a table. A cell (`td`, `th`) has content, any other element children."""

    tag: str
    colspan: int = 1
    rowspan: int = 1
    content: tuple[str, ...] = ()
    """A cell's characters, and its inner tags as one token each."""

    children: tuple[Node, ...] = ()

    @property
    def is_cell(self) -> bool:
        """Whether this is a `td` or `th`."""
        return self.tag in ("td", "th")

    @property
    def size(self) -> int:
        """Nodes from here down, this one included."""
        return 1 + sum(child.size for child in self.children)

    def rows(self) -> list[Node]:
        """Every `tr` from here down, in order."""
        if self.tag == "tr":
            return [self]
        return [row for child in self.children for row in child.rows()]

    def without_content(self) -> Node:
        """The same structure with empty cells."""
        children = tuple(child.without_content() for child in self.children)
        return Node(self.tag, self.colspan, self.rowspan, (), children)


@dataclass(frozen=True)
class TableShape:
    """What makes a table hard to write down."""

    rows: int
    columns: int
    characters: int
    spans: int
    """Cells that span several rows or columns."""


def parse_table(text: str) -> Node:
    """The first `<table>` in `text`, bare or within a page or other words.

    Raises:
        TableError: where there is none, a span is not a number from 1 to 1000, or elements are too
            many or nested too deep.
    """
    from lxml import etree, html

    parser = html.HTMLParser(remove_comments=True, remove_pis=True, encoding="utf-8")
    try:
        page = html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except etree.LxmlError as exc:
        raise TableError(f"the text cannot be read as HTML: {exc}") from exc
    table = page.find(".//table")
    if table is None:
        raise TableError("there is no <table> in the text")
    if any(count == MAX_ELEMENTS for count, _ in enumerate(table.iter())):
        raise TableError(f"the table has more than {MAX_ELEMENTS} elements")
    return _node(table, MAX_DEPTH)


def shape_of(table: Node) -> TableShape:
    """Rows, columns (colspans counted), characters of all cells, and spanning cells."""
    rows = [[cell for cell in row.children if cell.is_cell] for row in table.rows()]
    cells = [cell for row in rows for cell in row]
    return TableShape(
        rows=len(rows),
        columns=max((sum(cell.colspan for cell in row) for row in rows), default=0),
        characters=sum(1 for cell in cells for token in cell.content if len(token) == 1),
        spans=sum(1 for cell in cells if cell.colspan > 1 or cell.rowspan > 1),
    )


def _node(element: HtmlElement, depth: int) -> Node:
    if depth == 0:
        raise TableError(f"elements are nested more than {MAX_DEPTH} deep")
    tag = str(element.tag)
    if tag not in ("td", "th"):
        return Node(tag, children=tuple(_node(child, depth - 1) for child in element))
    return Node(
        tag,
        colspan=_span(element, "colspan"),
        rowspan=_span(element, "rowspan"),
        content=tuple(_inner_tokens(element, depth)),
    )


def _span(element: HtmlElement, name: str) -> int:
    text = element.get(name, "1").strip()
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_SPAN:
        raise TableError(f"{name} {text!r} is not a number from 1 to {MAX_SPAN}")
    return int(text)


def _inner_tokens(element: HtmlElement, depth: int) -> list[str]:
    if depth == 0:
        raise TableError(f"elements are nested more than {MAX_DEPTH} deep")
    tokens = list(_composed(element.text))
    for child in element:
        tokens += [f"<{child.tag}>", *_inner_tokens(child, depth - 1), f"</{child.tag}>"]
        tokens += _composed(child.tail)
    return tokens


def _composed(text: str | None) -> str:
    return composed(text or "")
