"""A contact sheet: what a folder of samples looks like, at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from vlmpipe.data.images import load_image
from vlmpipe.data.messages import ImageName, Record, numbered_lines, parse_record
from vlmpipe.data.problems import SampleError
from vlmpipe.data.synthetic.folder import LINES, SHEET
from vlmpipe.drawing.fonts import faces, font
from vlmpipe.errors import BadSamplesError, ConfigError
from vlmpipe.pipeline.files import write_bytes
from vlmpipe.tasks import task_of

LARGEST = 24
COLUMNS = 4
TILE, GAP, PRINT = 360, 16, 17
"""Pixels: the side of the square that a picture is fitted into, the space around it, the print."""

CAPTION_LINES = 3
LINE = PRINT + 6
PAPER, INK, FRAME = (236, 238, 242), (25, 28, 33), (170, 176, 186)
MAX_PIXELS = 100_000_000
FACE = "gothic"
"""Has Latin letters and Hangul."""


@dataclass(frozen=True)
class Tile:
    """A picture and what is said of it."""

    image: Image.Image
    caption: str
    target: str


def write_sheet(folder: Path) -> Path | None:
    """Draw up to 24 samples, evenly spread over the folder, with difficulty and target.

    None where no sample has a picture.

    Raises:
        ConfigError: for a folder without samples.jsonl.
        BadSamplesError: for a sample that cannot be read, with its line.
    """
    lines = _spread(folder / LINES)
    tiles = [tile for number, line in lines for tile in _tiles(folder, number, line)]
    if not tiles:
        return None
    stream = BytesIO()
    _draw(tiles).save(stream, format="PNG", optimize=True)
    write_bytes(folder / SHEET, stream.getvalue())
    return folder / SHEET


def _spread(path: Path) -> list[tuple[int, bytes]]:
    if not path.is_file():
        raise ConfigError(
            f"there is no finished set of samples: {path} is missing",
            "make one: vlmpipe data synth --task table --n 100 --out DIR",
            "or give the same `vlmpipe data synth` command again: it goes on where it stopped",
        )
    total = sum(1 for _ in numbered_lines(path))
    wanted = {place * total // LARGEST for place in range(LARGEST)}
    return [row for place, row in enumerate(numbered_lines(path)) if place in wanted]


def _tiles(folder: Path, number: int, line: bytes) -> Iterator[Tile]:
    """One tile, of the sample's first picture; none for a sample of text alone."""
    try:
        record = parse_record(line)
        names = record.image_names
        if names:
            yield _tile(record, number, load_image(folder / names[0], MAX_PIXELS))
    except SampleError as exc:
        raise BadSamplesError(
            f"{folder / LINES}:{number} cannot be shown: {exc}", "mend or remove it"
        ) from exc


def _tile(record: Record, number: int, image: Image.Image) -> Tile:
    parts = record.messages[-1].parts
    target = "".join(part for part in parts if not isinstance(part, ImageName))
    difficulty = task_of(record.task or "").difficulty(target)
    size = f"{image.width}×{image.height}"
    image.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    return Tile(image, f"{number}: difficulty {difficulty:.2f}, {size}", target)


def _draw(tiles: list[Tile]) -> Image.Image:
    columns = min(COLUMNS, len(tiles))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.image.height for tile in row) + GAP + CAPTION_LINES * LINE for row in rows]
    width = columns * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, sum(heights) + GAP), PAPER)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            _draw_tile(sheet, tile, GAP + column * (TILE + GAP), top, height)
        top += height
    return sheet


def _draw_tile(sheet: Image.Image, tile: Tile, left: int, top: int, height: int) -> None:
    pen = ImageDraw.Draw(sheet)
    x, y = left + (TILE - tile.image.width) // 2, top
    sheet.paste(tile.image, (x, y))
    pen.rectangle((x - 1, y - 1, x + tile.image.width, y + tile.image.height), outline=FRAME)
    caption = top + height - GAP - CAPTION_LINES * LINE + 4
    for place, text in enumerate([tile.caption, *_wrapped(tile.target, CAPTION_LINES - 1)]):
        pen.text((left, caption + place * LINE), _printable(text), fill=INK, font=font(FACE, PRINT))


def _wrapped(text: str, lines: int) -> list[str]:
    """The first characters of the text, cut where the width of a tile ends."""
    rest, cut = _printable(" ".join(text[: 4 * TILE].split())), []
    for _ in range(lines):
        fitting = _fitting(rest)
        cut.append(rest[:fitting])
        rest = rest[fitting:]
    return [*cut[:-1], f"{cut[-1][:-1]}…"] if rest else cut


def _fitting(text: str) -> int:
    """How many characters of the text fit on one line."""
    face = font(FACE, PRINT)
    count = min(len(text), TILE)
    while count and face.getlength(text[:count]) > TILE:
        count -= 1
    return count


def _printable(text: str) -> str:
    """The text with a square for each character that the face lacks."""
    known = faces()[FACE].characters
    return "".join(each if each in known else "□" for each in text)
