"""A page before it is painted: boxes, lines, texts and seals in their places, in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from vlmpipe.drawing.fonts import font

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

SMALLEST_PRINT = 9
"""Pixels to the em; a text that does not fit its box is set smaller down to this."""


@dataclass(frozen=True)
class Frame:
    """A rectangle, or an ellipse that just fits into it."""

    box: Box
    fill: Colour | None = None
    outline: Colour | None = None
    line: int = 1


@dataclass(frozen=True)
class Stroke:
    """A line through points."""

    points: tuple[tuple[int, int], ...]
    ink: Colour
    line: int = 1


@dataclass(frozen=True)
class Text:
    """A text on one baseline, and the box that it must not leave."""

    text: str
    face: str
    size: int
    ink: Colour
    origin: tuple[int, int]
    """Left end of the baseline."""

    box: Box

    @property
    def extent(self) -> Box:
        """What the ink covers."""
        left, top, right, bottom = font(self.face, self.size).getbbox(self.text, anchor="ls")
        x, y = self.origin
        return (
            math.floor(x + left),
            math.floor(y + top),
            math.ceil(x + right),
            math.ceil(y + bottom),
        )


@dataclass(frozen=True)
class Seal:
    """A red stamp."""

    centre: tuple[int, int]
    radii: tuple[int, int]
    lines: tuple[str, ...]
    face: str
    angle: float
    """Degrees counter-clockwise."""

    ink: Colour


@dataclass
class Page:
    """What a page shows, in the order of painting."""

    size: tuple[int, int]
    """Width, height."""

    paper: Colour
    frames: list[Frame] = field(default_factory=list)
    strokes: list[Stroke] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    seals: list[Seal] = field(default_factory=list)


def text_width(text: str, face: str, size: int) -> int:
    """Pixels that the text takes, with the ink that some letters have beyond their own room."""
    face_of_size = font(face, size)
    left, _, right, _ = face_of_size.getbbox(text, anchor="ls")
    return math.ceil(max(face_of_size.getlength(text), right)) - _overhang(left)


def _overhang(left: float) -> int:
    """Where the ink begins, in pixels, if that is before the text does; else 0."""
    return min(0, math.floor(left))


def fitting_size(text: str, face: str, size: int, width: int, height: int) -> int:
    """The largest size up to `size` at which the text is no larger than that."""
    size = max(SMALLEST_PRINT, min(size, height * 3 // 4))
    while size > SMALLEST_PRINT and text_width(text, face, size) > width:
        size -= 1
    return size


def placed(
    text: str, face: str, size: int, ink: Colour, box: Box, *, align: str = "l", pad: int = 0
) -> Text:
    """The text in the middle of the height of its box: `l`eft, `m`iddle or `r`ight of it."""
    left, top, right, bottom = box
    size = fitting_size(text, face, size, right - left - 2 * pad, bottom - top)
    spare = right - left - 2 * pad - text_width(text, face, size)
    x = left + pad + {"l": 0, "m": spare // 2, "r": spare}[align]
    x -= _overhang(font(face, size).getbbox(text, anchor="ls")[0])
    # Capitals and Hangul are about 0.7 em high, and stand 0.35 em to either side of the middle.
    return Text(text, face, size, ink, (x, (top + bottom) // 2 + round(0.35 * size)), box)


def widest(texts: Sequence[str], face: str, size: int) -> int:
    """Width of the widest of them, in pixels; 0 for none."""
    return max((text_width(text, face, size) for text in texts), default=0)
