"""Where a table departs from its reference: cells that read otherwise, and what is not there."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import zip_longest
from typing import NamedTuple

from vlmpipe.evaluation.report.differences import blocks
from vlmpipe.evaluation.report.untrusted import Attributes, spans_of

MAX_ROWS = 500
"""No table that a person compares has more."""


class Cell(NamedTuple):
    """What a cell says and covers."""

    text: str
    columns: int = 1
    rows: int = 1


Row = tuple[Cell, ...]
Place = tuple[int, int]
"""Row, and place in the row."""

Pairs = Iterator[tuple[int | None, int | None]]
"""A place in the reference and one in the answer; None where there is none."""


@dataclass(frozen=True)
class Departures:
    """What a table has otherwise than its reference."""

    cells: frozenset[Place] = frozenset()
    """Those that say or cover something else, or are too many."""

    missing: str = ""
    """What the reference has and the table has not: `1 row, 1 column`."""

    unmarked: str = ""
    """Why they were not compared."""


def table_departures(text: str, reference: str) -> Departures:
    """What of the tables in `text` departs from those in `reference`.

    Rows are aligned first, and the cells of rows that are not of one length, so that a row or a
    column too many or too few is told alone.
    """
    ours, theirs = table_cells(text), table_cells(reference)
    if max(len(ours), len(theirs)) > MAX_ROWS:
        return Departures(unmarked=f"more than {MAX_ROWS} rows")
    try:
        cells = frozenset(_marks(theirs, ours))
        missing = _missing(theirs, ours)
    except ImportError:
        # A report may be written where the libraries that read answers are not installed.
        return Departures()
    return Departures(cells, missing)


def table_cells(text: str) -> list[Row]:
    """A table's cells, row by row, white space and inline elements left out."""
    reader = _CellReader()
    reader.feed(text)
    reader.close()
    return [
        tuple(cell._replace(text=" ".join(cell.text.split())) for cell in row)
        for row in reader.rows
    ]


def _marks(theirs: Sequence[Row], ours: Sequence[Row]) -> Iterator[Place]:
    for old, new in _row_pairs(theirs, ours):
        if new is None:
            continue
        row = theirs[old] if old is not None else ()
        for was, place in _cell_pairs(row, ours[new]):
            if place is not None and (was is None or row[was] != ours[new][place]):
                yield new, place


def _missing(theirs: Sequence[Row], ours: Sequence[Row]) -> str:
    rows, cells = 0, []
    for old, new in _row_pairs(theirs, ours):
        if old is not None and new is not None:
            pairs = _cell_pairs(theirs[old], ours[new])
            cells.append(sum(place is None for _, place in pairs))
        rows += new is None
    # As many in each row is a column, or several.
    columns = cells[0] if len(set(cells)) == 1 else 0
    found = {"row": rows, "column": columns, "cell": 0 if columns else sum(cells)}
    said = (f"{count} {name}{'' if count == 1 else 's'}" for name, count in found.items() if count)
    return ", ".join(said)


def _row_pairs(theirs: Sequence[Row], ours: Sequence[Row]) -> Pairs:
    """Rows that are equal; between them, in their order, or by their first cells where there are
    more on one side.
    """
    for block in blocks(theirs, ours):
        if len(block.theirs) == len(block.ours):
            yield from zip(block.theirs, block.ours, strict=True)
            continue
        labels = [theirs[row][:1] for row in block.theirs], [ours[row][:1] for row in block.ours]
        for old, new in _aligned(*labels):
            yield _from(block.theirs, old), _from(block.ours, new)


def _cell_pairs(theirs: Row, ours: Row) -> Pairs:
    """By place; in rows that are not of one length, equal cells with equal ones."""
    if len(theirs) == len(ours):
        yield from zip(range(len(theirs)), range(len(ours)), strict=True)
    else:
        yield from _aligned(theirs, ours)


def _aligned(theirs: Sequence[Hashable], ours: Sequence[Hashable]) -> Pairs:
    for block in blocks(theirs, ours):
        yield from zip_longest(block.theirs, block.ours)


def _from(places: range, number: int | None) -> int | None:
    return None if number is None else places[number]


class _CellReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[Cell]] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            spans = spans_of(attrs)
            self.rows[-1].append(Cell("", spans.get("colspan", 1), spans.get("rowspan", 1)))
        self._in_cell = tag in ("td", "th") or (self._in_cell and tag != "tr")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell and self.rows and self.rows[-1]:
            cell = self.rows[-1][-1]
            self.rows[-1][-1] = cell._replace(text=cell.text + data)
