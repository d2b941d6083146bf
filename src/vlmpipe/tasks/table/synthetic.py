"""Random clean tables of digits and words, from two short cells to two hundred long ones."""

from __future__ import annotations

import html
import random
import string
from dataclasses import dataclass
from functools import cache
from importlib import resources

EASY_BELOW, HARD_FROM = 1 / 3, 2 / 3
"""Easy: digits. Medium: words as well. Hard: cells that span several rows or columns as well."""


@dataclass(frozen=True)
class Cell:
    """A cell in the place where HTML writes it."""

    text: str
    colspan: int = 1
    rowspan: int = 1


@dataclass(frozen=True)
class Grid:
    """A table: each row lists the cells that begin in it."""

    rows: tuple[tuple[Cell, ...], ...]
    columns: int

    def html(self) -> str:
        """`<table><tr><td>…</td>…</tr>…</table>`, all on one line."""
        rows = ("".join(map(_cell_html, row)) for row in self.rows)
        return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def random_grid(rng: random.Random, difficulty: float) -> Grid:
    """A table that is about as hard as asked, 0 to 1 (see `TableTask.difficulty`)."""
    rows, columns = _size(rng, cells=4 * 50**difficulty)
    length = 2 * 6**difficulty
    numeric = [difficulty < EASY_BELOW or rng.random() < 0.6 for _ in range(columns)]
    texts = [[_text(rng, length, number) for number in numeric] for _ in range(rows)]
    if difficulty < HARD_FROM:
        return Grid(tuple(tuple(map(Cell, row)) for row in texts), columns)
    return _with_spans(rng, texts)


def _size(rng: random.Random, cells: float) -> tuple[int, int]:
    """Rows and columns whose product is near `cells`, at least two of each."""
    columns = max(2, min(10, round(cells**0.5 * rng.uniform(0.6, 1.0))))
    return max(2, round(cells / columns)), columns


def _text(rng: random.Random, length: float, numeric: bool) -> str:
    if numeric:
        return _number(rng, max(1, round(length * rng.uniform(0.5, 1.3))))
    return _words(rng, max(2, round(length * rng.uniform(0.7, 1.3))))


def _number(rng: random.Random, length: int) -> str:
    digits = "".join(rng.choice(string.digits) for _ in range(min(length, 9)))
    if length < 4 or rng.random() < 0.5:
        return digits
    point = rng.randint(1, len(digits) - 2)
    return f"{digits[:point]}.{digits[point + 1 :]}"


def _words(rng: random.Random, length: int) -> str:
    text = rng.choice(_words_of(length))
    while len(text) + 3 < length:
        text += " " + rng.choice(_words_of(length - len(text) - 1))
    return text


@cache
def _words_of(length: int) -> list[str]:
    """Words of at most so many letters, three-letter ones at least."""
    text = (resources.files("vlmpipe.tasks") / "data" / "words.txt").read_text(encoding="utf-8")
    return [word for word in text.split() if len(word) <= max(3, length)]


def _with_spans(rng: random.Random, texts: list[list[str]]) -> Grid:
    """Pairs of neighbours in the first row become one wide cell, in the first column a tall one."""
    columns = len(texts[0])
    wide = _pairs(rng, 0, columns)
    tall = _pairs(rng, 1, len(texts))
    rows = []
    for y, row in enumerate(texts):
        cells = [
            Cell(text, colspan=1 + (y == 0 and x in wide), rowspan=1 + (x == 0 and y in tall))
            for x, text in enumerate(row)
            if not (y == 0 and x - 1 in wide) and not (x == 0 and y - 1 in tall)
        ]
        rows.append(tuple(cells))
    return Grid(tuple(rows), columns)


def _pairs(rng: random.Random, start: int, stop: int) -> set[int]:
    """First places of up to four pairs of neighbours that do not overlap."""
    places = range(start, stop - 1, 2)
    return set(rng.sample(places, k=min(len(places), rng.randint(1, 4))))


def _cell_html(cell: Cell) -> str:
    spans = "".join(
        f' {name}="{span}"'
        for name, span in (("colspan", cell.colspan), ("rowspan", cell.rowspan))
        if span > 1
    )
    return f"<td{spans}>{html.escape(cell.text)}</td>"
