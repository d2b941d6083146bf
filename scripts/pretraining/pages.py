"""Pages of text whose every character's place is known."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field, replace

from PIL import Image, ImageDraw, ImageFont

from pretraining.sketches import Stroke, draw_strokes, random_sketch
from pretraining.texts import cell_text, filling_text
from vlmpipe.drawing.fonts import faces, font

PATCH = 28
"""Pixels on a side of one image token."""

FIGURES = 0.12
"""Share of the pages that hold a single line and a figure below it, where one fits."""

CELL, LINE = "\t", "\n"
"""What the reading puts between two cells of a line, and between two lines."""


@dataclass(frozen=True)
class Glyph:
    """A character and the middle of its place, in pixels."""

    character: str
    x: float
    y: float

    def scaled(self, across: float, down: float) -> Glyph:
        """The same on a page of another size."""
        return Glyph(self.character, self.x * across, self.y * down)


@dataclass
class Page:
    """A picture, its text in reading order, and where each character of the text stands."""

    image: Image.Image
    text: str = ""
    glyphs: list[Glyph | None] = field(default_factory=list)
    """One for each character of `text`; None for spaces and separators."""

    marks: list[Glyph] = field(default_factory=list)
    """Characters that belong to a figure and are not read."""

    strokes: list[Stroke] = field(default_factory=list)

    def resized(self, width: int, height: int) -> Page:
        """The same page in another size."""
        across, down = width / self.image.width, height / self.image.height
        return Page(
            self.image.resize((width, height), Image.Resampling.BICUBIC),
            self.text,
            [glyph and glyph.scaled(across, down) for glyph in self.glyphs],
            [mark.scaled(across, down) for mark in self.marks],
            [stroke.scaled(across, down) for stroke in self.strokes],
        )

    def write(self, text: str, glyphs: list[Glyph | None]) -> None:
        """Add to the reading."""
        self.text += text
        self.glyphs += glyphs

    def separate(self, mark: str) -> None:
        """Add a separator to the reading."""
        self.write(mark, [None] * len(mark))


@dataclass(frozen=True)
class Look:
    """How one page is printed; lengths in pixels."""

    face: str
    size: int
    ink: tuple[int, int, int]
    paper: tuple[int, int, int]
    rules: str
    """`grid`, `rows`, `boxes`, `stripes` or `none`."""

    align: str
    """`l`, `m` or `r`."""

    header: bool
    """Whether the first line stands on grey."""


def full_page(rng: random.Random, columns: int, rows: int) -> Page:
    """A page filled with characters from edge to edge, for naming rather than reading."""
    size = columns * PATCH, rows * PATCH
    korean = rng.random() < 0.15
    look = replace(_look(rng, korean, size[1]), align="l", rules="none", header=False)
    page = Page(Image.new("RGB", size, look.paper))
    pen = ImageDraw.Draw(page.image)
    face, letters = font(look.face, look.size), faces()[look.face]
    pitch = look.size * rng.uniform(1.1, 1.4)
    middle = rng.uniform(0.45, 0.8) * pitch
    while middle + pitch / 3 < size[1]:
        left = rng.uniform(-2, 8)
        text = filling_text(rng, korean, size[0] - left, face.getlength, letters.lacks)
        _write(page, pen, look, text, (left, size[0], middle))
        middle += pitch
    return page


def random_page(rng: random.Random, columns: int, rows: int, most: int) -> Page:
    """A page of `columns` × `rows` image tokens with at most `most` characters on it.

    It is drawn a little larger or smaller and then resized, as pictures of other sizes are.
    """
    width, height = columns * PATCH, rows * PATCH
    drawn = (round(width * rng.uniform(0.92, 1.09)), round(height * rng.uniform(0.92, 1.09)))
    if rng.random() < 0.3:
        drawn = (width, height)
    page = _draw(rng, drawn, most)
    return page if drawn == (width, height) else page.resized(width, height)


def sketch_page(rng: random.Random, columns: int, rows: int) -> Page:
    """A page with a line drawing and nothing to read, for naming strokes."""
    width, height = columns * PATCH, rows * PATCH
    larger = rng.uniform(0.92, 1.3)
    look = _look(rng, korean=False, height=height)
    page = Page(Image.new("RGB", (round(width * larger), round(height * larger)), look.paper))
    _sketch(rng, page, look, 0)
    return page.resized(width, height)


def _sketch(rng: random.Random, page: Page, look: Look, top: float) -> None:
    """Draw a figure below `top`."""
    width, height = page.image.size
    box = (10, min(top + 10, height - 10), width - 10, height - 10)
    drawing = random_sketch(rng, box, look.size)
    draw_strokes(page.image, drawing.strokes, look.ink, rng.uniform(0.8, 2.4))
    page.strokes += drawing.strokes
    pen, face = ImageDraw.Draw(page.image), font(look.face, look.size)
    for text, (x, y) in drawing.texts:
        pen.text((x, y), text, fill=look.ink, font=face, anchor="mm")
        page.marks += _places(face, text, x - face.getlength(text) / 2, y)


def _draw(rng: random.Random, size: tuple[int, int], most: int) -> Page:
    korean = rng.random() < 0.06
    look = _look(rng, korean, size[1])
    page = Page(Image.new("RGB", size, look.paper))
    pen = ImageDraw.Draw(page.image)
    _clutter(rng, pen, size, look)
    bands = _bands(rng, size[1], look)
    if rng.random() < FIGURES and size[1] - bands[0][1] > 2.5 * PATCH:
        bands = bands[:1]
        _sketch(rng, page, look, bands[0][1])
    edges = _edges(rng, size[0], look)
    for place, (top, bottom) in enumerate(bands):
        if rng.random() < 0.25:
            edges = edges if look.rules != "none" else _edges(rng, size[0], look)
        if place:
            page.separate(LINE)
        _line(rng, page, pen, look, (top, bottom), edges, korean, most, place)
    return page


def _look(rng: random.Random, korean: bool, height: int) -> Look:
    style = "hand" if rng.random() < 0.05 else "print"
    fitting = [f.name for f in faces().values() if f.style == style and (f.korean or not korean)]
    dark = rng.randint(0, 90)
    ink = (dark, dark, dark) if rng.random() < 0.8 else tuple(rng.randint(0, 120) for _ in "rgb")
    light = rng.randint(225, 255)
    paper = tuple(min(255, light + rng.randint(0, 8)) for _ in "rgb")
    largest = min(34, max(14, round(height / 1.5)))
    return Look(
        face=rng.choice(fitting),
        size=min(largest, rng.choice((14, 15, 16, 16, 17, 18, 18, 19, 20, 20, 21, 22, 24, 26, 30))),
        ink=ink,  # type: ignore[arg-type]
        paper=paper,  # type: ignore[arg-type]
        rules=rng.choice(("grid", "grid", "rows", "boxes", "stripes", "none", "none")),
        align=rng.choice("lmr"),
        header=rng.random() < 0.25,
    )


def _clutter(
    rng: random.Random, pen: ImageDraw.ImageDraw, size: tuple[int, int], look: Look
) -> None:
    """Strokes and shapes that are not text: what is not a character must not be read."""
    if rng.random() < 0.7:
        return
    for _ in range(rng.randint(1, 5)):
        x, y = rng.randint(0, size[0]), rng.randint(0, size[1])
        end = (x + rng.randint(-90, 90), y + rng.randint(-90, 90))
        box = (min(x, end[0]), min(y, end[1]), max(x, end[0]) + 1, max(y, end[1]) + 1)
        pale = tuple(rng.randint(130, 235) for _ in "rgb")
        shape = rng.choice(("line", "ellipse", "rectangle", "bar"))
        if shape == "line":
            pen.line((x, y, *end), fill=pale, width=rng.randint(1, 3))
        elif shape == "bar":
            pen.rectangle(box, fill=pale)
        else:
            getattr(pen, shape)(box, outline=pale, width=rng.randint(1, 3))


def _bands(rng: random.Random, height: int, look: Look) -> list[tuple[float, float]]:
    """Top and bottom of each line of text."""
    pitch = look.size * rng.uniform(1.25, 2.1)
    margin = rng.uniform(2, 12)
    count = max(1, int((height - 2 * margin) / pitch))
    start = margin + rng.uniform(0, max(0.0, height - 2 * margin - count * pitch))
    return [(start + i * pitch, start + (i + 1) * pitch) for i in range(count)]


def _edges(rng: random.Random, width: int, look: Look) -> list[float]:
    """Left edges of the columns, and the right edge of the last."""
    most = max(1, int(width / (look.size * 2.6)))
    count = rng.randint(1, min(most, 5))
    margin = rng.uniform(2, 14)
    weights = [rng.uniform(0.7, 1.4) for _ in range(count)]
    step = (width - 2 * margin) / sum(weights)
    edges = [margin]
    for weight in weights:
        edges.append(edges[-1] + weight * step)
    return edges


def _line(
    rng: random.Random,
    page: Page,
    pen: ImageDraw.ImageDraw,
    look: Look,
    band: tuple[float, float],
    edges: list[float],
    korean: bool,
    most: int,
    place: int,
) -> None:
    top, bottom = band
    for column, (left, right) in enumerate(itertools.pairwise(edges)):
        if column:
            page.separate(CELL)
        box = (round(left), round(top), round(right), round(bottom))
        _frame(pen, look, box, place)
        if len(page.text) < most and rng.random() < 0.95:
            text = _fitting(rng, look, right - left - 8, korean)
            _write(page, pen, look, text, (left + 4, right - 4, (top + bottom) / 2))


def _frame(
    pen: ImageDraw.ImageDraw, look: Look, box: tuple[int, int, int, int], place: int
) -> None:
    shade = tuple(max(0, level - 28) for level in look.paper)
    if (look.header and place == 0) or (look.rules == "stripes" and place % 2):
        pen.rectangle(box, fill=shade)
    if look.rules == "grid":
        pen.rectangle(box, outline=look.ink)
    elif look.rules == "rows":
        pen.line((box[0], box[3], box[2], box[3]), fill=look.ink)
    elif look.rules == "boxes":
        inner = (box[0] + 1, box[1] + 1, max(box[2] - 2, box[0] + 2), max(box[3] - 1, box[1] + 2))
        pen.rounded_rectangle(inner, radius=4, outline=look.ink)


def _fitting(rng: random.Random, look: Look, width: float, korean: bool) -> str:
    """A text that fits into the width, or as many as do; a digit where nothing fits."""
    face, letters = font(look.face, look.size), faces()[look.face]
    drawn = [cell_text(rng, korean) for _ in range(5)]
    fitting = [t for t in drawn if not letters.lacks(t) and face.getlength(t) <= width]
    if not fitting:
        return str(rng.randint(0, 9))
    if rng.random() < 0.5:
        return fitting[0]
    whole = " ".join(fitting)
    while face.getlength(whole) > width:
        whole = whole.rpartition(" ")[0]
    return whole or fitting[0]


def _write(
    page: Page,
    pen: ImageDraw.ImageDraw,
    look: Look,
    text: str,
    where: tuple[float, float, float],
) -> None:
    face = font(look.face, look.size)
    left, right, middle = where
    length = face.getlength(text)
    x = {"l": left, "m": (left + right - length) / 2, "r": right - length}[look.align]
    pen.text((x, middle), text, fill=look.ink, font=face, anchor="lm")
    drawn = iter(_places(face, text, x, middle))
    page.write(text, [None if character == " " else next(drawn) for character in text])


def _places(face: ImageFont.FreeTypeFont, text: str, x: float, middle: float) -> list[Glyph]:
    """Where the characters of a text stand that begins at `x`; spaces apart."""
    ends = [face.getlength(text[: place + 1]) for place in range(len(text))]
    placed = zip(text, [0.0, *ends], ends, strict=False)
    return [Glyph(c, x + (start + end) / 2, middle) for c, start, end in placed if c != " "]
