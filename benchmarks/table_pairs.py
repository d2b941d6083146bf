"""Pairs of tables as an evaluation meets them: a reference, and what a model made of it.

References are as large as real ones: rows, columns, characters of a cell, merged cells, `thead` and
`tbody` are drawn like those of scientific tables (PubTabNet), up to some 200 cells. A share of the
answers is exactly right; the others have one to four faults of `FAULTS`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

EXACT_SHARE = 0.3
"""Answers that are right to the letter."""

MOST_CELLS = 200
MOST_FAULTS = 4

Rows = list[list["Cell"]]


@dataclass(frozen=True)
class Cell:
    """One `<td>`, its text being HTML."""

    text: str
    colspan: int = 1
    rowspan: int = 1

    def html(self) -> str:
        """With its spans, where they are not 1."""
        spans = f' colspan="{self.colspan}"' * (self.colspan > 1)
        spans += f' rowspan="{self.rowspan}"' * (self.rowspan > 1)
        return f"<td{spans}>{self.text}</td>"


@dataclass(frozen=True)
class Pair:
    """Two pages with one table each."""

    prediction: str
    reference: str
    faults: tuple[str, ...]
    """None for an answer that is right."""

    cells: int


def table_pairs(count: int, seed: int) -> list[Pair]:
    """So many pairs, the same for the same seed; every table is the `body` of a page, since the
    package that they are measured against reads nothing else.
    """
    return [_pair(random.Random(f"table-pair:{seed}:{index}")) for index in range(count)]


def _pair(rng: random.Random) -> Pair:
    rows = _table(rng)
    faults = [] if rng.random() < EXACT_SHARE else rng.choices(list(FAULTS), k=_fault_count(rng))
    wrong = [list(row) for row in rows]
    for fault in faults:
        wrong = FAULTS[fault](rng, wrong)
    reference, prediction = _page(rows), _page(wrong)
    if faults and rng.random() < 0.1:
        faults.append("cut off")
        prediction = prediction[: int(len(prediction) * rng.uniform(0.3, 0.95))]
    return Pair(prediction, reference, tuple(faults), sum(map(len, rows)))


def _fault_count(rng: random.Random) -> int:
    return rng.randint(1, MOST_FAULTS)


def _page(rows: Rows) -> str:
    lines = ["<tr>" + "".join(cell.html() for cell in row) + "</tr>" for row in rows]
    head, body = lines[0], "".join(lines[1:])
    table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
    return f"<html><body>{table}</body></html>"


def _table(rng: random.Random) -> Rows:
    columns = rng.choices(range(2, 11), weights=(2, 4, 6, 6, 5, 5, 4, 3, 2))[0]
    most = max(3, min(40, MOST_CELLS // columns))
    height = round(min(most, max(3.0, rng.lognormvariate(2.4, 0.6))))
    head = [Cell(f"<b>{_words(rng, 8)}</b>") for _ in range(columns)]
    rows = [head, *([Cell(_words(rng, 16)), *_values(rng, columns - 1)] for _ in range(height - 1))]
    if rng.random() < 0.4:
        rows = _with_spans(rng, rows)
    return rows


def _with_spans(rng: random.Random, rows: Rows) -> Rows:
    """A heading across two columns, and rows that are a heading across all of them."""
    columns = len(rows[0])
    rows[0][1:] = [replace(rows[0][1], colspan=2), *rows[0][3:]] if columns > 2 else rows[0][1:]
    for place in rng.sample(range(1, len(rows)), k=min(2, len(rows) - 1)):
        rows[place] = [replace(rows[place][0], colspan=columns)]
    return rows


def _values(rng: random.Random, count: int) -> list[Cell]:
    return [Cell(_value(rng)) for _ in range(count)]


def _value(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.1:
        return ""
    if kind < 0.5:
        return f"{rng.uniform(0, 1000):.{rng.randint(0, 3)}f}"
    if kind < 0.7:
        return f"{rng.uniform(0, 90):.1f} ± {rng.uniform(0, 9):.2f}"
    if kind < 0.85:
        return f"{rng.randint(0, 400)} ({rng.uniform(0, 100):.1f}%)"
    return _words(rng, 12)


def _words(rng: random.Random, length: float) -> str:
    letters = "aaabcdeeeefghiiiklmnnooprrssttuvy"
    wanted = max(2, round(rng.lognormvariate(0, 0.5) * length))
    text = "".join(rng.choice(letters) for _ in range(wanted))
    return " ".join(text[start : start + 7] for start in range(0, wanted, 7)).capitalize()


def _wrong_digits(rng: random.Random, rows: Rows) -> Rows:
    """One cell in ten, at least one, has a character read as another."""
    places = [(y, x) for y, row in enumerate(rows) for x, cell in enumerate(row) if cell.text]
    for y, x in rng.sample(places, k=min(len(places), 1 + len(places) // 10)):
        text = rows[y][x].text
        at = rng.randrange(len(text))
        if text[at].isalnum() and text[at - 1 : at] not in ("<", "/"):
            rows[y][x] = replace(
                rows[y][x], text=text[:at] + rng.choice("0136789") + text[at + 1 :]
            )
    return rows


def _dropped_row(rng: random.Random, rows: Rows) -> Rows:
    at = rng.randrange(1, len(rows)) if len(rows) > 2 else 1
    return rows[:at] + rows[at + 1 :] if len(rows) > 2 else rows


def _repeated_row(rng: random.Random, rows: Rows) -> Rows:
    at = rng.randrange(len(rows))
    return [*rows[: at + 1], *[list(rows[at])] * rng.randint(1, 3), *rows[at + 1 :]]


def _missing_column(rng: random.Random, rows: Rows) -> Rows:
    at = rng.randrange(max(map(len, rows)))
    return [row[:at] + row[at + 1 :] if len(row) > at + 1 else row for row in rows]


def _wrong_span(rng: random.Random, rows: Rows) -> Rows:
    row = rng.choice(rows)
    at = rng.randrange(len(row)) if row else 0
    row[at : at + 1] = [replace(cell, colspan=cell.colspan + 1) for cell in row[at : at + 1]]
    return rows


def _split_cell(rng: random.Random, rows: Rows) -> Rows:
    row = rng.choice(rows)
    if row:
        at = rng.randrange(len(row))
        first, _, rest = row[at].text.partition(" ")
        row[at : at + 1] = [replace(row[at], text=first), Cell(rest)]
    return rows


FAULTS: dict[str, Callable[[random.Random, Rows], Rows]] = {
    "wrong digits": _wrong_digits,
    "dropped row": _dropped_row,
    "repeated row": _repeated_row,
    "missing column": _missing_column,
    "wrong span": _wrong_span,
    "split cell": _split_cell,
}
"""What models do to tables; one answer in ten with faults is cut off as well."""
