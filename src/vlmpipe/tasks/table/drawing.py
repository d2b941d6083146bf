"""A table drawn as clean print, in the shipped faces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmpipe.tasks.table.placing import PlacedCell, PlacedTable, baseline, face_of, line_height

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

    from vlmpipe.tasks.table.style import Colour


def draw_table(table: PlacedTable) -> Image.Image:
    """The table as an RGB image, no side under 112 pixels."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", table.size, table.style.paper)
    pen = ImageDraw.Draw(image)
    for cell in table.cells:
        _shade(pen, cell, table)
    for cell in table.cells:
        _draw_rules(pen, cell, table)
        _draw_text(pen, cell, table)
    return image


def _shade(pen: ImageDraw.ImageDraw, placed: PlacedCell, table: PlacedTable) -> None:
    style = table.style
    fill: Colour | None = None
    if placed.cell.header:
        fill = style.header_fill
    elif style.rules == "stripes" and (placed.row - table.head_rows) % 2:
        fill = style.stripe
    if fill is not None:
        left, top, right, bottom = placed.box
        pen.rectangle((left, top, right - 1, bottom - 1), fill=fill)


def _draw_rules(pen: ImageDraw.ImageDraw, placed: PlacedCell, table: PlacedTable) -> None:
    left, top, right, bottom = placed.box
    style, beyond = table.style, table.style.line_width - 1
    for y in _rules_at(placed, table):
        pen.rectangle((left, y, right, y + beyond), fill=style.ink)
    if style.rules == "grid":
        for x in (left, right):
            pen.rectangle((x, top, x + beyond, bottom + beyond), fill=style.ink)


def _rules_at(placed: PlacedCell, table: PlacedTable) -> list[int]:
    """Heights of the horizontal lines along a cell."""
    _, top, _, bottom = placed.box
    if table.style.rules in ("grid", "rows"):
        return [top, bottom]
    if table.style.rules != "book":
        return []
    first, last = placed.row, placed.row + placed.cell.rowspan
    ends = first < table.head_rows or last == 1 + max(each.row for each in table.cells)
    return [top] * (first == 0) + [bottom] * ends


def _draw_text(pen: ImageDraw.ImageDraw, placed: PlacedCell, table: PlacedTable) -> None:
    style = table.style
    left, top, right, bottom = placed.box
    inset = style.padding + style.line_width
    align = "m" if placed.cell.colspan > 1 else style.align(placed.column)
    x = {"l": left + inset, "m": (left + right) // 2, "r": right - inset}[align]
    step = line_height(style)
    y = (top + bottom + style.line_width - step * len(placed.lines)) // 2 + baseline(style)
    ink = style.header_ink if placed.cell.header else style.ink
    for line in placed.lines:
        pen.text((x, y), line, fill=ink, font=face_of(placed.cell, style), anchor=f"{align}s")
        y += step
