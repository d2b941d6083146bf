"""Where every cell of a table stands on its picture, and how its text is broken into lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmpipe.drawing.fonts import font
from vlmpipe.errors import StageError
from vlmpipe.tasks.table.form import Cell
from vlmpipe.tasks.table.layout import places
from vlmpipe.tasks.table.style import Style
from vlmpipe.tasks.table.synthetic import Grid

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

MIN_SIDE = 112
"""Four image tokens of 28 pixels: smaller pictures are enlarged by some runtimes."""

PAGE = (1240, 1754)
"""A4 at 150 dots an inch: width, height."""

SMALLEST_PRINT = 9
"""Pixels to the em; below it Hangul loses strokes."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class PlacedCell:
    """A cell, its place in the table, and its box: left, top, right, bottom, in pixels."""

    cell: Cell
    row: int
    column: int
    lines: tuple[str, ...]
    box: Box


@dataclass(frozen=True)
class PlacedTable:
    """Everything that the drawing needs to know."""

    cells: tuple[PlacedCell, ...]
    size: tuple[int, int]
    """Width and height of the picture, in pixels."""

    style: Style
    """As asked for, the print smaller where the page is full."""

    head_rows: int
    """Rows at the top that hold header cells alone."""


def place_table(grid: Grid, style: Style) -> PlacedTable:
    """The table on a picture no larger than a page, in smaller print where it has to be.

    Raises:
        StageError: for a table that no page holds in the smallest print.
    """
    for size in range(style.font_size, SMALLEST_PRINT - 1, -1):
        placed = _placed(grid, style.smaller(size))
        if placed.size[0] <= PAGE[0] and placed.size[1] <= PAGE[1]:
            return placed
    width, height = placed.size
    raise StageError(
        f"a table of {len(grid.rows)} rows and {grid.columns} columns takes {width} × {height}"
        f" pixels in the smallest print ({SMALLEST_PRINT} pixels), and a page has"
        f" {PAGE[0]} × {PAGE[1]}",
        "split the table, or shorten its cells",
        "ask for easier ones, e.g. data.synthetic.difficulty=[0,0.5]",
    )


def face_of(cell: Cell, style: Style) -> FreeTypeFont:
    """The face that a cell is printed in."""
    return font(style.bold if cell.header else style.face, style.font_size)


def line_height(style: Style) -> int:
    """Pixels from one line of a cell to the next."""
    return sum(_extent(style))


def baseline(style: Style) -> int:
    """Pixels from the top of a line to its baseline."""
    return _extent(style)[0]


def _extent(style: Style) -> tuple[int, int]:
    """Above and below the baseline, the larger of both faces."""
    metrics = [font(name, style.font_size).getmetrics() for name in (style.face, style.bold)]
    return max(up for up, _ in metrics), max(down for _, down in metrics)


def _placed(grid: Grid, style: Style) -> PlacedTable:
    cells = places(grid.rows)
    lines = {spot: _lines(cell, style) for spot, cell in cells.items()}
    widths = _column_widths(grid, cells, lines, style)
    heights = _row_heights(grid, cells, lines, style)
    lefts, width = _edges(widths, style)
    tops, height = _edges(heights, style)
    placed = tuple(
        PlacedCell(
            cell,
            y,
            x,
            lines[y, x],
            (lefts[x], tops[y], lefts[x + cell.colspan], tops[y + cell.rowspan]),
        )
        for (y, x), cell in cells.items()
    )
    head = [all(cell.header for cell in row) for row in grid.rows]
    return PlacedTable(placed, (width, height), style, ([*head, False]).index(False))


Cells = Mapping[tuple[int, int], Cell]
Lines = Mapping[tuple[int, int], tuple[str, ...]]


def _lines(cell: Cell, style: Style) -> tuple[str, ...]:
    """The text in lines no wider than the style says, but for single words that are."""
    face = face_of(cell, style)
    widest = style.wrap * style.font_size * cell.colspan
    lines: list[str] = []
    for word in cell.text.split():
        if lines and face.getlength(f"{lines[-1]} {word}") <= widest:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return tuple(lines)


def _column_widths(grid: Grid, cells: Cells, lines: Lines, style: Style) -> list[int]:
    around = 2 * (style.padding + style.line_width)
    widths = [style.font_size + around] * grid.columns
    for (y, x), cell in sorted(cells.items(), key=lambda item: item[1].colspan):
        face = face_of(cell, style)
        wanted = max((round(face.getlength(line)) + 1 for line in lines[y, x]), default=0) + around
        _stretch(widths, x, cell.colspan, wanted)
    return widths


def _row_heights(grid: Grid, cells: Cells, lines: Lines, style: Style) -> list[int]:
    around = 2 * (style.padding // 2 + style.line_width)
    heights = [line_height(style) + around] * len(grid.rows)
    for (y, x), cell in sorted(cells.items(), key=lambda item: item[1].rowspan):
        _stretch(heights, y, cell.rowspan, len(lines[y, x]) * line_height(style) + around)
    return heights


def _stretch(lengths: list[int], first: int, count: int, wanted: int) -> None:
    """Make neighbouring rows or columns as long together as a cell wants, each by as much."""
    lacking = wanted - sum(lengths[first : first + count])
    for place in range(first, first + count):
        lengths[place] += max(0, -(-lacking // count))


def _edges(lengths: list[int], style: Style) -> tuple[list[int], int]:
    """Where rows or columns begin and end, and the length of the picture."""
    spare = max(0, MIN_SIDE - sum(lengths) - 2 * style.margin)
    edges = [style.margin + spare // 2]
    for length in lengths:
        edges.append(edges[-1] + length)
    return edges, edges[-1] + style.margin + spare - spare // 2
