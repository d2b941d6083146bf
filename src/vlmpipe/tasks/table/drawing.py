"""A table drawn as clean print, in a shipped font."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmpipe.drawing.fonts import font
from vlmpipe.tasks.table.form import Cell
from vlmpipe.tasks.table.synthetic import Grid

if TYPE_CHECKING:
    from PIL import Image, ImageDraw
    from PIL.ImageFont import FreeTypeFont

MIN_SIDE = 112
"""Four image tokens of 28 pixels: smaller pictures are enlarged by some runtimes."""


@dataclass(frozen=True)
class Style:
    """How one table is printed; lengths in pixels."""

    font_size: int
    padding: int
    margin: int
    line_width: int
    rules: str
    """`grid`: every line; `rows`: horizontal lines only."""

    align: str
    """`l`, `m` or `r`, as Pillow anchors text."""

    ink: int
    paper: int
    """Grey levels, 0 black to 255 white."""


@dataclass(frozen=True)
class PlacedCell:
    """A cell and its box: left, top, right, bottom, in pixels."""

    text: str
    box: tuple[int, int, int, int]


def random_style(rng: random.Random, difficulty: float) -> Style:
    """Large print for easy tables, small print for hard ones."""
    largest = round(30 - 14 * difficulty)
    return Style(
        font_size=rng.randint(largest - 5, largest + 3),
        padding=rng.randint(5, 10),
        margin=rng.randint(6, 14),
        line_width=rng.choice((1, 2)),
        rules=rng.choice(("grid", "grid", "rows")),
        align=rng.choice("lmr"),
        ink=rng.randint(0, 60),
        paper=rng.randint(240, 255),
    )


def draw_table(grid: Grid, style: Style) -> Image.Image:
    """The table as an RGB image, no side under 112 pixels."""
    from PIL import Image, ImageDraw

    cells, (width, height) = place_cells(grid, style)
    image = Image.new("RGB", (width, height), (style.paper,) * 3)
    pen = ImageDraw.Draw(image)
    for cell in cells:
        _draw_cell(pen, cell, style)
    return image


def place_cells(grid: Grid, style: Style) -> tuple[list[PlacedCell], tuple[int, int]]:
    """Where each cell stands, and the size (width, height) of the image."""
    spots = _spots(grid)
    widths = _column_widths(grid, spots, style)
    line = _line_height(style)
    spare_x = max(0, MIN_SIDE - sum(widths) - 2 * style.margin)
    spare_y = max(0, MIN_SIDE - line * len(grid.rows) - 2 * style.margin)
    lefts = _running(style.margin + spare_x // 2, widths)
    tops = _running(style.margin + spare_y // 2, [line] * len(grid.rows))
    placed = [
        PlacedCell(cell.text, (lefts[x], tops[y], lefts[x + cell.colspan], tops[y + cell.rowspan]))
        for (y, x), cell in spots
    ]
    right = spare_x - spare_x // 2 + style.margin
    bottom = spare_y - spare_y // 2 + style.margin
    return placed, (lefts[-1] + right, tops[-1] + bottom)


def _spots(grid: Grid) -> list[tuple[tuple[int, int], Cell]]:
    """Row and column of each cell, places taken by spans skipped, as HTML lays tables out."""
    taken: set[tuple[int, int]] = set()
    spots = []
    for y, row in enumerate(grid.rows):
        x = 0
        for cell in row:
            while (y, x) in taken:
                x += 1
            spots.append(((y, x), cell))
            taken |= {(y + j, x + i) for j in range(cell.rowspan) for i in range(cell.colspan)}
    return spots


def _column_widths(
    grid: Grid, spots: list[tuple[tuple[int, int], Cell]], style: Style
) -> list[int]:
    face = _font(style.font_size)
    around = 2 * (style.padding + style.line_width)
    widths = [style.font_size + around] * grid.columns
    for (_, x), cell in spots:
        share = (round(face.getlength(cell.text)) + 1 + around) / cell.colspan
        for column in range(x, x + cell.colspan):
            widths[column] = max(widths[column], int(share) + 1)
    return widths


def _line_height(style: Style) -> int:
    ascent, descent = _font(style.font_size).getmetrics()
    return ascent + descent + 2 * (style.padding // 2 + style.line_width)


def _running(start: int, steps: list[int]) -> list[int]:
    edges = [start]
    for step in steps:
        edges.append(edges[-1] + step)
    return edges


def _draw_cell(pen: ImageDraw.ImageDraw, cell: PlacedCell, style: Style) -> None:
    left, top, right, bottom = cell.box
    ink = (style.ink,) * 3
    if style.rules == "grid":
        pen.rectangle(cell.box, outline=ink, width=style.line_width)
    else:
        for y in (top, bottom):
            pen.line((left, y, right, y), fill=ink, width=style.line_width)
    inset = style.padding + style.line_width
    x = {"l": left + inset, "m": (left + right) // 2, "r": right - inset}[style.align]
    face = _font(style.font_size)
    pen.text((x, (top + bottom) // 2), cell.text, fill=ink, font=face, anchor=f"{style.align}m")


def _font(size: int) -> FreeTypeFont:
    return font("gothic", size)
