"""Where an answer departs from its reference: words of a text, cells of a table."""

from __future__ import annotations

import difflib
import re
from html import escape
from html.parser import HTMLParser
from itertools import zip_longest

WORTH_MARKING = 0.4
"""Share of words in common under which marks would only colour the whole answer."""

MAX_WORDS = 1500
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


def marked_text(text: str, reference: str) -> str | None:
    """Inert HTML with `<mark>` around what the reference does not say, `…` where it says more.

    None where the texts are equal, too long to compare, or have too little in common.
    """
    ours, theirs = _WORD.findall(text), _WORD.findall(reference)
    if ours == theirs or max(len(ours), len(theirs)) > MAX_WORDS:
        return None
    matcher = difflib.SequenceMatcher(None, theirs, ours, autojunk=False)
    if matcher.ratio() < WORTH_MARKING:
        return None
    pieces = [
        _marked("".join(ours[start:end]), "…" if tag == "delete" else "", tag == "equal")
        for tag, _, _, start, end in matcher.get_opcodes()
    ]
    return "".join(pieces)


def differing_cells(text: str, reference: str) -> frozenset[tuple[int, int]]:
    """(row, place in the row) of cells that read otherwise in the reference's tables.

    Rows are aligned first, so that one row too many or too few marks itself alone.
    """
    ours, theirs = table_cells(text), table_cells(reference)
    rows = [tuple(row) for row in theirs], [tuple(row) for row in ours]
    changes = difflib.SequenceMatcher(None, *rows, autojunk=False).get_opcodes()
    return frozenset(
        (row, place)
        for tag, start, end, first, last in changes
        if tag != "equal"
        for row, other in zip_longest(range(first, last), theirs[start:end])
        if row is not None
        for place, cell in enumerate(ours[row])
        if cell != _cell_at(other or [], place)
    )


def table_cells(text: str) -> list[list[str]]:
    """Texts of a table's cells, row by row, white space and inline elements left out."""
    reader = _CellReader()
    reader.feed(text)
    reader.close()
    return [[" ".join(cell.split()) for cell in row] for row in reader.rows]


def _marked(text: str, missing: str, same: bool) -> str:
    return escape(text) if same else f"<mark>{escape(text) or missing}</mark>"


def _cell_at(row: list[str], place: int) -> str | None:
    return row[place] if place < len(row) else None


class _CellReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        self._in_cell = tag in ("td", "th") or (self._in_cell and tag != "tr")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data
