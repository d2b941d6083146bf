"""Random tables, from four short cells to two hundred long ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlmpipe.tasks.base import Language
from vlmpipe.tasks.table.columns import Column, Kind, random_column
from vlmpipe.tasks.table.form import Cell, written

EASY_BELOW, HARD_FROM = 1 / 3, 2 / 3
"""Easy: numbers and single words. Medium: units, longer texts that wrap, row headings as well.
Hard: cells that span several rows or columns as well."""

FIRST_STEPS = 0.15
"""Up to here half of the tables have no headings: the smallest model learns to read on these."""

EASY_KINDS: tuple[Kind, ...] = ("count", "count", "count", "decimal", "percent", "money", "word")
KINDS: tuple[Kind, ...] = ("count", "decimal", "percent", "money", "measure", "word")

MOST_WORDS = 3
"""Columns of words: more of them would not fit on a page beside seven of numbers."""


@dataclass(frozen=True)
class Grid:
    """A table: each row lists the cells that begin in it."""

    rows: tuple[tuple[Cell, ...], ...]
    columns: int

    def html(self) -> str:
        """`<table><tr><td>…</td>…</tr>…</table>`, all on one line."""
        return written([cell.html() for cell in row] for row in self.rows)

    def text(self) -> str:
        """Every cell's text, one after the other."""
        return "".join(cell.text for row in self.rows for cell in row)


def random_grid(rng: random.Random, difficulty: float, language: Language = "en") -> Grid:
    """A table that is about as hard as asked, 0 to 1 (see `TableTask.difficulty`)."""
    rows, columns = _size(rng, cells=4 * 50**difficulty)
    kinds = _kinds(rng, columns, difficulty)
    made: list[Column] = []
    for kind in kinds:
        taken = {column.heading for column in made}
        made.append(random_column(rng, kind, 2 * 6**difficulty, language, taken))
    headed = rng.random() < (0.5 if difficulty <= FIRST_STEPS else 0.85)
    sided = difficulty >= EASY_BELOW and kinds[0] == "word" and rng.random() < 0.3
    blank = 0.08 * difficulty
    body = [
        [
            Cell(_text(rng, column, 0 if sided and x == 0 else blank), header=sided and x == 0)
            for x, column in enumerate(made)
        ]
        for _ in range(rows - headed)
    ]
    head = [[Cell(column.heading, header=True) for column in made]] if headed else []
    if difficulty >= HARD_FROM:
        head, body = _with_spans(rng, head, body, made)
    return Grid(tuple(map(tuple, head + body)), columns)


def _size(rng: random.Random, cells: float) -> tuple[int, int]:
    """Rows and columns whose product is near `cells`, at least two of each."""
    columns = max(2, min(10, round(cells**0.5 * rng.uniform(0.6, 1.0))))
    return max(2, round(cells / columns)), columns


def _kinds(rng: random.Random, columns: int, difficulty: float) -> list[Kind]:
    """Names lead the rows of most tables; longer remarks end some that are not easy."""
    easy = difficulty < EASY_BELOW
    kinds = [rng.choice(EASY_KINDS if easy else KINDS) for _ in range(columns)]
    if rng.random() < (0.4 if easy else 0.75):
        kinds[0] = "word"
    for place in [place for place, kind in enumerate(kinds) if kind == "word"][MOST_WORDS:]:
        kinds[place] = "count"
    if not easy and rng.random() < 0.35:
        kinds[-1] = "phrase"
    return kinds


def _text(rng: random.Random, column: Column, blank: float) -> str:
    return "" if rng.random() < blank else column.cell(rng)


Rows = list[list[Cell]]


def _with_spans(
    rng: random.Random, head: Rows, body: Rows, columns: Sequence[Column]
) -> tuple[Rows, Rows]:
    """Neighbours in the first row become one wide cell, in the first column a tall one.

    A wide heading stands above the headings of its columns; the other headings are as tall as both.
    """
    wide = _pairs(rng, 0, len(columns))
    # Without headings the first row is the one with wide cells.
    body = _with_tall_cells(body, _pairs(rng, 0 if head else 1, len(body)))
    if not head:
        return [], [_with_wide_cells(body[0], wide), *body[1:]]
    names = [replace(column, kind="word", capital=True).cell(rng) for column in columns]
    upper = [
        replace(cell, text=names[x]) if x in wide else replace(cell, rowspan=2)
        for x, cell in enumerate(head[0])
    ]
    lower = [cell for x, cell in enumerate(head[0]) if x in wide or x - 1 in wide]
    return [_with_wide_cells(upper, wide), lower], body


def _with_wide_cells(row: list[Cell], wide: set[int]) -> list[Cell]:
    return [
        replace(cell, colspan=1 + (x in wide)) for x, cell in enumerate(row) if x - 1 not in wide
    ]


def _with_tall_cells(rows: Rows, tall: set[int]) -> Rows:
    return [
        [replace(row[0], rowspan=1 + (y in tall)), *row[1:]] if y - 1 not in tall else row[1:]
        for y, row in enumerate(rows)
    ]


def _pairs(rng: random.Random, start: int, stop: int) -> set[int]:
    """First places of up to four pairs of neighbours that do not overlap."""
    places = range(start, stop - 1, 2)
    return set(rng.sample(places, k=min(len(places), rng.randint(1, 4))))
