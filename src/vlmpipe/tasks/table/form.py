"""The one form of a table's HTML: `<table><tr><th>..</th><td>..</td></tr>..</table>` on one line,
no attributes but spans.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlmpipe.tasks.html_tables import Node

MEANT = frozenset({"<sup>", "</sup>", "<sub>", "</sub>"})
"""Inner tags that change what a cell says; others, such as `<b>`, change how it looks."""

BREAKS = frozenset(
    f"<{slash}{tag}>" for tag in ("br", "p", "div", "li", "tr", "td", "th") for slash in ("", "/")
)
"""Inner tags that part words."""


@dataclass(frozen=True)
class Cell:
    """A cell in the place where HTML writes it."""

    text: str
    colspan: int = 1
    rowspan: int = 1
    header: bool = False

    def html(self) -> str:
        """`<td>…</td>`, or `<th>…</th>` for a header, the text escaped."""
        return _cell_html(self.header, self.colspan, self.rowspan, _escaped(self.text))


def written(rows: Iterable[Iterable[str]]) -> str:
    """The table of these cells' HTML, row by row."""
    lines = ("".join(row) for row in rows)
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def canonical_html(table: Node) -> str | None:
    """A parsed table in its one form; None where it has no cell.

    White space is made one, `thead`, `tbody` and inner tags but `sup` and `sub` are left out; cells
    of a `thead` are header cells.
    """
    heads = {id(row) for part in table.children if part.tag == "thead" for row in part.rows()}
    rows = [(id(row) in heads, cells_of(row)) for row in table.rows()]
    if not any(cells for _, cells in rows):
        return None
    return written(
        [
            _cell_html(head or cell.tag == "th", cell.colspan, cell.rowspan, content_of(cell))
            for cell in cells
        ]
        for head, cells in rows
    )


def cells_of(row: Node) -> Sequence[Node]:
    """The cells that begin in a row."""
    return [cell for cell in row.children if cell.is_cell]


def content_of(cell: Node) -> str:
    """Inner HTML of a cell as it is meant: white space made one, no tags but `sup` and `sub`."""
    return " ".join("".join(map(_token_html, cell.content)).split())


def _token_html(token: str) -> str:
    if len(token) == 1:
        return _escaped(token)
    return token if token in MEANT else " " * (token in BREAKS)


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _cell_html(header: bool, colspan: int, rowspan: int, content: str) -> str:
    tag = "th" if header else "td"
    spans = "".join(
        f' {name}="{span}"'
        for name, span in (("colspan", colspan), ("rowspan", rowspan))
        if span > 1
    )
    return f"<{tag}{spans}>{content}</{tag}>"
