"""A sheet to draw on: smooth shapes first, print on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlmpipe.drawing import fonts

if TYPE_CHECKING:
    from PIL import Image

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

FINE = 2
"""Shapes are drawn so many times as large and averaged down, by whole numbers only: the same bytes
on every machine."""

MIN_SIDE = 112
"""Four image tokens of 28 pixels: smaller pictures are enlarged by some runtimes."""


HALO = 2
"""Pixels of blank paper around print that stands on lines."""


class Canvas:
    """A picture of `width` by `height` pixels; lengths are pixels of it."""

    def __init__(self, width: float, height: float, paper: Colour) -> None:
        from PIL import Image, ImageDraw

        self.width, self.height = round(width), round(height)
        self.paper = paper
        self._image = Image.new("RGB", (self.width * FINE, self.height * FINE), paper)
        self._pen = ImageDraw.Draw(self._image)
        self._prints: list[tuple[Point, Image.Image, Colour]] = []

    def line(self, points: Sequence[Point], ink: Colour, width: float = 1) -> None:
        """Straight pieces from point to point."""
        self._pen.line(_fine(points), fill=ink, width=round(width * FINE), joint="curve")

    def box(
        self, box: Box, fill: Colour | None, ink: Colour | None = None, width: float = 1,
        radius: float = 0,
    ) -> None:  # fmt: skip
        """A rectangle, its corners round where a radius is given."""
        left, top, right, bottom = (round(each * FINE) for each in box)
        self._pen.rounded_rectangle(
            (left, top, max(left, right), max(top, bottom)),
            radius=radius * FINE,
            fill=fill,
            outline=ink,
            width=round(width * FINE),
        )

    def polygon(
        self, points: Sequence[Point], fill: Colour | None, ink: Colour, width: float = 1
    ) -> None:
        """A closed figure."""
        if fill:
            self._pen.polygon(_fine(points), fill=fill)
        self.line([*points, points[0], points[1]], ink, width)

    def circle(
        self, centre: Point, radius: float, fill: Colour | None, ink: Colour, width: float = 1
    ) -> None:
        """A circle."""
        self._pen.ellipse(
            _around(centre, radius), fill=fill, outline=ink, width=round(width * FINE)
        )

    def slice(
        self, centre: Point, radius: float, angles: tuple[float, float], fill: Colour, ink: Colour
    ) -> None:
        """A slice of a pie between two angles, in degrees clockwise from three o'clock."""
        self._pen.pieslice(_around(centre, radius), *angles, fill=fill, outline=ink, width=2 * FINE)

    def hatch(self, box: Box, ink: Colour, gap: int) -> None:
        """Slanting lines over a rectangle, `gap` pixels from one to the next."""
        from PIL import Image, ImageDraw

        left, top, right, bottom = (round(each * FINE) for each in box)
        if right <= left or bottom <= top:
            return
        mask = Image.new("L", (right - left, bottom - top), 0)
        pen = ImageDraw.Draw(mask)
        for start in range(0, mask.width + mask.height, gap * FINE):
            pen.line((start, 0, start - mask.height, mask.height), fill=255, width=FINE)
        self._image.paste(ink, (left, top), mask)

    def text(
        self, at: Point, text: str, face: Face, ink: Colour, anchor: str = "mm",
        upright: bool = False, halo: bool = False,
    ) -> None:  # fmt: skip
        """Print of one or more lines; `anchor`: `l`, `m`, `r`, then `t`, `m`, `b` of its box.

        `upright` turns it by a quarter, to be read from below; `halo` keeps lines off it.
        """
        print_ = face.printed(text)
        if upright:
            from PIL import Image

            print_ = print_.transpose(Image.Transpose.ROTATE_90)
        left = at[0] - print_.width * {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]]
        top = at[1] - print_.height * {"t": 0.0, "m": 0.5, "b": 1.0}[anchor[1]]
        if halo:
            self._prints.append(((left - HALO, top - HALO), _widened(print_), self.paper))
        self._prints.append(((left, top), print_, ink))

    def image(self) -> Image.Image:
        """What has been drawn, as RGB, amid blank paper where a side would be under 112 pixels."""
        from PIL import Image

        image = self._image.reduce(FINE)
        for (left, top), print_, ink in self._prints:
            image.paste(ink, (round(left), round(top)), print_)
        size = max(MIN_SIDE, image.width), max(MIN_SIDE, image.height)
        sheet = Image.new("RGB", size, self.paper)
        sheet.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
        return sheet


class Face:
    """A shipped typeface at a size, in pixels to the em."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        self._font = fonts.font(name, size)
        ascent, descent = self._font.getmetrics()
        self.line_height = ascent + descent

    def measure(self, text: str) -> tuple[int, int]:
        """Width and height of a text of one or more lines, in pixels."""
        lines = text.split("\n")
        return max(int(self._font.getlength(line)) + 2 for line in lines), self.line_height * len(
            lines
        )

    def wrapped(self, text: str, width: float) -> str:
        """The text broken between words into lines that are no wider, where words allow it."""
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self.measure(longer)[0] <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return "\n".join(lines)

    def printed(self, text: str) -> Image.Image:
        """The text as a mask, 255 where the ink is; its lines are centred."""
        from PIL import Image, ImageDraw

        width, height = self.measure(text)
        mask = Image.new("L", (width, height), 0)
        pen = ImageDraw.Draw(mask)
        for number, line in enumerate(text.split("\n")):
            place = (width / 2, number * self.line_height)
            pen.text(place, line, fill=255, font=self._font, anchor="ma")
        return mask


def _widened(mask: Image.Image) -> Image.Image:
    from PIL import Image, ImageFilter

    wide = Image.new("L", (mask.width + 2 * HALO, mask.height + 2 * HALO), 0)
    wide.paste(mask, (HALO, HALO))
    return wide.filter(ImageFilter.MaxFilter(2 * HALO + 1))


def _fine(points: Sequence[Point]) -> list[tuple[int, int]]:
    return [(round(x * FINE), round(y * FINE)) for x, y in points]


def _around(centre: Point, radius: float) -> tuple[int, int, int, int]:
    (left, top), (right, bottom) = _fine(
        [(centre[0] - radius, centre[1] - radius), (centre[0] + radius, centre[1] + radius)]
    )
    return left, top, right, bottom
