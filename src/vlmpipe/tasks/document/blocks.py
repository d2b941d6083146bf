"""The parts of a form from top to bottom: each knows its height and draws itself."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Protocol

from vlmpipe.tasks.document.claim import BillItem
from vlmpipe.tasks.document.filling import Filler
from vlmpipe.tasks.document.page import Box, Frame, Page, Stroke, placed, text_width, widest
from vlmpipe.tasks.document.style import Style


class Block(Protocol):
    """A part of a form."""

    def height(self, row: int) -> int:
        """Pixels it takes where a row of fields takes `row`."""

    def draw(self, page: Page, area: Box, row: int) -> None:
        """Puts it on the page."""


@dataclass(frozen=True)
class Header:
    """Title, and the number of the form above it where it has one."""

    style: Style
    title: str
    number: str
    align: str
    ruled: bool

    def height(self, row: int) -> int:
        """Title, number and the space under them."""
        return self.style.size * (2 if self.style.easy else 3) + self._number_height

    @property
    def _number_height(self) -> int:
        return self.style.size if self.number else 0

    def draw(self, page: Page, area: Box, row: int) -> None:
        """The title in large print, with a double line under it where it is ruled."""
        style, (left, top, right, bottom) = self.style, area
        if self.number:
            place = (left, top, right, top + self._number_height)
            page.texts.append(
                placed(self.number, style.label_face, style.size * 2 // 3, style.form_ink, place)
            )
        title = (left, top + self._number_height, right, bottom - style.size // 2)
        size = style.size * (5 if style.easy else 7) // 4
        page.texts.append(
            placed(self.title, style.title_face, size, style.form_ink, title, align=self.align)
        )
        for y in (title[3] - 1, title[3] + 3) if self.ruled else ():
            page.strokes.append(Stroke(((left, y), (right, y)), style.form_ink))


@dataclass(frozen=True)
class Items:
    """A ruled table of what was given and what it cost."""

    style: Style
    filler: Filler
    title: str
    columns: dict[str, str]
    items: list[BillItem]
    numbered: bool

    def height(self, row: int) -> int:
        """Title, head and rows."""
        return self._row(row) * (len(self.items) + 2) + self.style.size // 2

    def _row(self, row: int) -> int:
        return row * 7 // 8

    def draw(self, page: Page, area: Box, row: int) -> None:
        """Title, then the head in grey, then a row an item."""
        style, high = self.style, self._row(row)
        left, top, right, _ = area
        place = (left, top, right, top + high)
        page.texts.append(placed(self.title, style.title_face, style.size, style.form_ink, place))
        for number in range(len(self.items) + 1):
            y = top + high * (number + 1)
            self._draw_row(page, (left, y, right, y + high), number)

    def _draw_row(self, page: Page, area: Box, number: int) -> None:
        style, head = self.style, number == 0
        for (name, label), box in zip(self._columns(), self._cells(area), strict=True):
            fill = style.tint if head else None
            page.frames.append(Frame(box, fill=fill, outline=style.form_ink))
            if head:
                page.texts.append(
                    placed(label, style.label_face, style.size, style.form_ink, box, align="m")
                )
            elif name == "number":
                text = placed(
                    str(number), style.label_face, style.size, style.form_ink, box, align="m"
                )
                page.texts.append(text)
            else:
                value = style.written(name, getattr(self.items[number - 1], name))
                align = {"name": "l", "quantity": "m", "amount": "r"}[name]
                self.filler.write(page, value, box, align)

    def _columns(self) -> list[tuple[str, str]]:
        return [pair for pair in self.columns.items() if self.numbered or pair[0] != "number"]

    def _cells(self, area: Box) -> list[Box]:
        shares = {"number": 10, "name": 48, "quantity": 14, "amount": 28}
        listed = [shares[name] for name, _ in self._columns()]
        left, top, right, bottom = area
        edges = [
            left + (right - left) * sum(listed[:place]) // sum(listed)
            for place in range(len(listed) + 1)
        ]
        return [(a, top, b, bottom) for a, b in itertools.pairwise(edges)]


@dataclass(frozen=True)
class FinePrint:
    """Notes in small print, each on a line."""

    style: Style
    lines: tuple[str, ...]

    @property
    def _size(self) -> int:
        return max(11, self.style.size * 2 // 3)

    def height(self, row: int) -> int:
        """Lines and a little space above."""
        return len(self.lines) * self._size * 3 // 2 + self.style.size

    def draw(self, page: Page, area: Box, row: int) -> None:
        """Each line after a bullet."""
        left, top, right, _ = area
        high = self._size * 3 // 2
        for number, line in enumerate(self.lines):
            y = top + self.style.size // 2 + number * high
            place = (left, y, right, y + high)
            text = f"{number + 1}. {line}"
            page.texts.append(
                placed(text, self.style.label_face, self._size, self.style.form_ink, place)
            )


@dataclass(frozen=True)
class Signature:
    """A line to sign on at the right, with who signs before it and a hint after it."""

    style: Style
    filler: Filler
    signer: str
    hint: str

    def height(self, row: int) -> int:
        """Room for a seal."""
        return self.style.size * 4

    def draw(self, page: Page, area: Box, row: int) -> None:
        """Who signs, the line, the hint; a scrawl on the line where it is filled in by hand."""
        style, (left, _, right, bottom) = self.style, area
        face, size, ink = style.label_face, style.size, style.form_ink
        base = bottom - size // 2
        hint_left = right - text_width(self.hint, face, size)
        line_left = max(left + widest([self.signer], face, size) + size, right - 16 * size)
        line = (line_left, hint_left - size // 2)
        who = (line_left - widest([self.signer], face, size) - size // 2, base - 2 * size)
        page.texts.append(placed(self.signer, face, size, ink, (*who, line_left, base)))
        page.texts.append(
            placed(self.hint, face, size, ink, (hint_left, base - 2 * size, right, base))
        )
        page.strokes.append(Stroke(((line[0], base), (line[1], base)), ink))
        if style.by_hand:
            self.filler.sign(page, (line[0] + size, base - 2 * size, line[1] - size, base - 2))
