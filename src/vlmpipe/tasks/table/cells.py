"""How many cells of a table are right: in their place, and beside their neighbours."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from vlmpipe.tasks.html_tables import Node
from vlmpipe.tasks.table.form import cells_of, content_of
from vlmpipe.tasks.table.layout import places

Neighbours = Counter[tuple[str, str, Literal["right", "below"]]]
"""Texts of two cells and where the second stands, each as often as it occurs."""

MAX_SLOTS = 1_000_000
"""Rows and columns that all cells may cover together before neighbours are no longer sought."""


@dataclass(frozen=True)
class GridCell:
    """A cell's text, white space made one, and the rows and columns it covers."""

    text: str
    row: int
    column: int
    rowspan: int
    colspan: int


def placed_cells(table: Node) -> list[GridCell]:
    """Cells where a browser puts them."""
    found = places([cells_of(row) for row in table.rows()])
    return [
        GridCell(content_of(cell), row, column, cell.rowspan, cell.colspan)
        for (row, column), cell in found.items()
    ]


def cell_accuracy(prediction: Sequence[GridCell], reference: Sequence[GridCell]) -> float:
    """Share of the reference's cells that the prediction has with the same text in the same row and
    column with the same spans: recall. 0.0 for a reference without cells.
    """
    right = len(set(prediction) & set(reference))
    return right / len(reference) if reference else 0.0


def cell_f1(prediction: Sequence[GridCell], reference: Sequence[GridCell]) -> float:
    """Harmonic mean of `cell_accuracy` and the share of the prediction's cells that are right, so
    that cells too many count as much as cells missing. 0.0 for a reference without cells.
    """
    right = len(set(prediction) & set(reference))
    return 2 * right / (len(prediction) + len(reference)) if reference else 0.0


def adjacency_f1(prediction: Sequence[GridCell], reference: Sequence[GridCell]) -> float | None:
    """F1 over pairs of neighbouring cells, which a row too many hardly lowers.

    Goebel, Hassan, Oro, Orsi: ICDAR 2013 table competition (ICDAR 2013). A pair is right when both
    texts and the direction are; blank cells are passed over. None for a reference without any pair,
    or whose cells cover more than `MAX_SLOTS`; 0.0 for such a prediction.
    """
    wanted = neighbours(reference)
    if not wanted:
        return None
    found = neighbours(prediction)
    return 2 * (wanted & found).total() / (wanted.total() + found.total())


def neighbours(cells: Sequence[GridCell]) -> Neighbours:
    """Each cell that has text with the nearest ones to the right and below that have."""
    height = max((cell.row + 1 for cell in cells), default=0)
    filled = [cell for cell in cells if cell.text]
    if sum(min(cell.rowspan, height) + cell.colspan for cell in filled) > MAX_SLOTS:
        return Counter()
    rows: defaultdict[int, list[GridCell]] = defaultdict(list)
    columns: defaultdict[int, list[GridCell]] = defaultdict(list)
    for cell in filled:
        # What hangs out below the last row is not there.
        for row in range(cell.row, min(cell.row + cell.rowspan, height)):
            rows[row].append(cell)
        for column in range(cell.column, cell.column + cell.colspan):
            columns[column].append(cell)
    beside = {pair for line in rows.values() for pair in pairwise(sorted(line, key=_from_left))}
    stacked = {pair for line in columns.values() for pair in pairwise(sorted(line, key=_from_top))}
    pairs: Neighbours = Counter((a.text, b.text, "right") for a, b in beside)
    pairs.update((a.text, b.text, "below") for a, b in stacked)
    return pairs


def _from_left(cell: GridCell) -> int:
    return cell.column


def _from_top(cell: GridCell) -> int:
    return cell.row
