"""What a person or a typewriter puts on a form: texts, ticks, and a signature."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlmpipe.drawing.fonts import font
from vlmpipe.tasks.document.page import Box, Frame, Page, Stroke, Text, placed, text_width
from vlmpipe.tasks.document.style import Style

Point = tuple[int, int]

_PIECES = re.compile(r"[가-힣]|[^\s가-힣]+")
"""What is written in one go: a syllable of Hangul, a word of anything else."""


@dataclass(frozen=True)
class Filler:
    """Fills in forms of one style; by hand, no two pieces stand on quite the same line."""

    style: Style
    rng: random.Random

    def write(self, page: Page, text: str, box: Box, align: str = "l") -> None:
        """The text into its box, smaller where it would not fit."""
        style = self.style
        whole = placed(
            text, style.fill_face, style.fill_size, style.ink, box, align=align, pad=style.pad
        )
        page.texts += self._by_hand(whole) if style.by_hand else [whole]

    def _by_hand(self, whole: Text) -> list[Text]:
        lift = max(1, whole.size // 16)
        return [
            replace(whole, text=piece[0], origin=self._shaken(whole, piece.start(), lift))
            for piece in _PIECES.finditer(whole.text)
        ]

    def _shaken(self, whole: Text, start: int, lift: int) -> tuple[int, int]:
        x, y = whole.origin
        before = round(font(whole.face, whole.size).getlength(whole.text[:start]))
        return x + before, y + self.rng.randint(-lift, lift)

    def tick_boxes(self, page: Page, boxes: tuple[tuple[str, bool], ...], area: Box) -> None:
        """Square boxes with a printed word after each, side by side; the ticked ones are marked."""
        style = self.style
        left, top, right, bottom = area
        size = style.size
        while boxes_width(boxes, style.label_face, size) > right - left - style.pad and size > 9:
            size -= 1
        x, middle = left + style.pad, (top + bottom) // 2
        for word, ticked in boxes:
            side = square_side(size)
            square = (x, middle - side // 2, x + side, middle - side // 2 + side)
            page.frames.append(Frame(square, outline=style.form_ink))
            if ticked:
                self._mark(page, square)
            x += side + size // 2
            width = text_width(word, style.label_face, size)
            place = (x, top, x + width, bottom)
            page.texts.append(placed(word, style.label_face, size, style.form_ink, place))
            x += width + size * 3 // 4

    def _mark(self, page: Page, square: Box) -> None:
        left, top, right, bottom = square
        ink, line = self.style.ink, max(2, (right - left) // 6)
        if self.style.mark == "fill":
            page.frames.append(Frame((left + 3, top + 3, right - 3, bottom - 3), fill=ink))
        elif self.style.mark == "cross":
            page.strokes.append(Stroke(((left, top), (right, bottom)), ink, line))
            page.strokes.append(Stroke(((left, bottom), (right, top)), ink, line))
        else:
            foot = (left + (right - left) * 2 // 5, bottom - 1)
            points = ((left, (top + bottom) // 2), foot, (right + 3, top - 3))
            page.strokes.append(Stroke(points, ink, line))

    def sign(self, page: Page, box: Box) -> None:
        """A scrawl along the box."""
        left, top, right, bottom = box
        steps = 12
        points = [
            (left + (right - left) * step // steps, self.rng.randint(top, bottom))
            for step in range(steps + 1)
        ]
        page.strokes.append(Stroke(_rounded(_rounded(_rounded(points))), self.style.ink, 2))


def _rounded(points: Sequence[Point]) -> tuple[Point, ...]:
    """The same line with its corners cut off (Chaikin), in whole pixels."""
    return tuple(
        ((near * ax + (4 - near) * bx) // 4, (near * ay + (4 - near) * by) // 4)
        for (ax, ay), (bx, by) in itertools.pairwise(points)
        for near in (3, 1)
    )


def boxes_width(boxes: tuple[tuple[str, bool], ...], face: str, size: int) -> int:
    """Pixels that boxes and their words take side by side."""
    words = sum(text_width(word, face, size) for word, _ in boxes)
    return words + len(boxes) * (square_side(size) + size // 2 + size * 3 // 4)


def square_side(size: int) -> int:
    """Side of a box to tick beside print of that size."""
    return size * 4 // 5
