"""Where the cells of a table stand once spans have pushed others aside."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar


class Spanning(Protocol):
    """Anything that takes up rows and columns."""

    @property
    def colspan(self) -> int:
        """Columns taken, at least 1."""

    @property
    def rowspan(self) -> int:
        """Rows taken, at least 1."""


AnyCell = TypeVar("AnyCell", bound=Spanning)


def places(rows: Iterable[Sequence[AnyCell]]) -> dict[tuple[int, int], AnyCell]:
    """Cells by the (row, column) of their upper left corner, counted from 0.

    As HTML lays tables out: a cell takes the first column that no cell of a row above reaches down
    to. The time does not depend on the size of the spans, which untrusted tables choose.
    """
    found: dict[tuple[int, int], AnyCell] = {}
    reaching: list[tuple[int, int, int]] = []
    """First column, column after the last, row after the last, in the order of columns."""

    for y, row in enumerate(rows):
        x = 0
        reaching = [each for each in reaching if each[2] > y]
        taken = list(reaching)
        for cell in row:
            x = _first_free(x, taken)
            found[y, x] = cell
            if cell.rowspan > 1:
                insort(reaching, (x, x + cell.colspan, y + cell.rowspan))
            x += cell.colspan
    return found


def _first_free(x: int, taken: Sequence[tuple[int, int, int]]) -> int:
    for left, right, _ in taken:
        if left <= x < right:
            x = right
    return x
