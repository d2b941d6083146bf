"""The one form of a table's HTML: `<table><tr><th>..</th><td>..</td></tr>..</table>` on one line,
no attributes but spans.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlmpipe.tasks.html_tables import Node
from vlmpipe.tasks.table.layout import places

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
    rows = [(id(row) in heads, _cells(row)) for row in table.rows()]
    if not any(cells for _, cells in rows):
        return None
    return written(
        [
            _cell_html(head or cell.tag == "th", cell.colspan, cell.rowspan, _content(cell))
            for cell in cells
        ]
        for head, cells in rows
    )


def cell_accuracy(prediction: Node, reference: Node) -> float:
    """Share of the reference's cells that the prediction has with the same text, white space made
    one, in the same row and column with the same spans. 0.0 for a reference without cells.
    """
    wanted, found = _texts(reference), _texts(prediction)
    right = sum(found.get(place) == cell for place, cell in wanted.items())
    return right / len(wanted) if wanted else 0.0


def _texts(table: Node) -> dict[tuple[int, int], tuple[str, int, int]]:
    placed = places([_cells(row) for row in table.rows()])
    return {place: (_content(cell), cell.colspan, cell.rowspan) for place, cell in placed.items()}


def _cells(row: Node) -> Sequence[Node]:
    return [cell for cell in row.children if cell.is_cell]


def _content(cell: Node) -> str:
    """Inner HTML of a cell as it is meant."""
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
