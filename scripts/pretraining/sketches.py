"""Line drawings whose every stroke is known: skeletons of bonds and rings, boxes joined by arrows.

They mean nothing: no chemistry and no chart is behind them. The tower learns from them to tell the
direction of a stroke, parallel lines and the heads of arrows.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

FINER = 3
"""Strokes are drawn this many times as large, then made smaller: their edges are smooth."""

DIRECTIONS, MOST_LINES, ARROWS = 6, 3, 4
STROKES = 1 + DIRECTIONS * MOST_LINES + ARROWS
"""Classes of a slot: nothing, a direction (of 30 degrees) of one to three lines, an arrow's head
pointing right, down, left or up."""

SYMBOLS = ("N", "O", "O", "S", "F", "Cl", "Br", "OH", "NH", "H", "NH2", "P", "I", "C")


@dataclass(frozen=True)
class Stroke:
    """A straight stroke; pixels."""

    start: Point
    end: Point
    lines: int = 1
    arrow: bool = False
    """Whether its end carries a head."""

    def scaled(self, across: float, down: float) -> Stroke:
        """The same on a page of another size."""
        (x, y), (u, v) = self.start, self.end
        return Stroke((x * across, y * down), (u * across, v * down), self.lines, self.arrow)

    def samples(self) -> list[tuple[Point, int]]:
        """Points along it, three pixels apart, and their classes; the head comes first."""
        (x, y), (u, v) = self.start, self.end
        length = math.hypot(u - x, v - y)
        angle = math.degrees(math.atan2(v - y, u - x))
        direction = round(angle / 30) % DIRECTIONS
        kind = 1 + (self.lines - 1) * DIRECTIONS + direction
        count = max(2, int(length / 3))
        along = [((x + (u - x) * t / count, y + (v - y) * t / count), kind) for t in range(count)]
        if not self.arrow:
            return along
        back = 4 / max(length, 1)
        head = 1 + DIRECTIONS * MOST_LINES + round(angle / 90) % ARROWS
        return [((u + (x - u) * back, v + (y - v) * back), head), *along]


@dataclass(frozen=True)
class Sketch:
    """Strokes, and texts with the middle of each."""

    strokes: tuple[Stroke, ...]
    texts: tuple[tuple[str, Point], ...]


def random_sketch(rng: random.Random, box: Box, text_size: float) -> Sketch:
    """Something drawn within the box."""
    return (_skeleton if rng.random() < 0.65 else _boxes)(rng, box, text_size)


def draw_strokes(
    image: Image.Image, strokes: tuple[Stroke, ...], ink: tuple[int, int, int], width: float
) -> None:
    """Draw with smooth edges, lines of this width in pixels."""
    mask = Image.new("L", (image.width * FINER, image.height * FINER))
    pen = ImageDraw.Draw(mask)
    thick = max(1, round(width * FINER))
    for stroke in strokes:
        for line in _parallels(stroke, 2.2 * width + 1.5):
            pen.line([value * FINER for point in line for value in point], fill=255, width=thick)
        if stroke.arrow:
            head = _head(stroke, 5 + 2 * width)
            pen.polygon([(x * FINER, y * FINER) for x, y in head], fill=255)
    image.paste(ink, mask=mask.resize(image.size, Image.Resampling.BOX))


def _parallels(stroke: Stroke, apart: float) -> list[tuple[Point, Point]]:
    (x, y), (u, v) = stroke.start, stroke.end
    length = math.hypot(u - x, v - y) or 1.0
    across, down = -(v - y) / length * apart, (u - x) / length * apart
    shifts = [place - (stroke.lines - 1) / 2 for place in range(stroke.lines)]
    return [((x + across * s, y + down * s), (u + across * s, v + down * s)) for s in shifts]


def _head(stroke: Stroke, size: float) -> list[Point]:
    (x, y), (u, v) = stroke.start, stroke.end
    length = math.hypot(u - x, v - y) or 1.0
    ahead = (u - x) / length * size, (v - y) / length * size
    foot = u - ahead[0], v - ahead[1]
    half = -ahead[1] / 2.2, ahead[0] / 2.2
    return [(u, v), (foot[0] + half[0], foot[1] + half[1]), (foot[0] - half[0], foot[1] - half[1])]


def _skeleton(rng: random.Random, box: Box, text_size: float) -> Sketch:
    """Chains and rings of strokes of one length, some of their corners lettered."""
    length = max(rng.uniform(15, 36), 1.1 * text_size)
    turn = rng.uniform(0, 360)
    corners = [(rng.uniform(box[0], box[2]), rng.uniform(box[1], box[3]))]
    bonds: list[tuple[int, int]] = []
    for _ in range(rng.randint(15, 140)):
        origin = len(corners) - 1 if rng.random() < 0.5 else rng.randrange(len(corners))
        heading = turn + rng.choice((0, 60, 120, 180, 240, 300, 30, 90))
        sides = rng.choice((5, 6, 6)) if rng.random() < 0.25 else 0
        path = _ring(corners[origin], heading, length, sides) if sides else []
        path = path or [_step(corners[origin], heading, length)]
        if not all(_free(point, corners, box, length) for point in path):
            continue
        numbers = [origin, *range(len(corners), len(corners) + len(path))]
        corners += path
        bonds += itertools.pairwise(numbers)
        if sides:
            bonds.append((numbers[-1], origin))
    named = {n: rng.choice(SYMBOLS) for n in range(len(corners)) if rng.random() < 0.16}
    return Sketch(
        tuple(_bond(rng, corners, named, bond, text_size) for bond in bonds),
        tuple((text, corners[number]) for number, text in named.items()),
    )


def _step(start: Point, heading: float, length: float) -> Point:
    angle = math.radians(heading)
    return start[0] + length * math.cos(angle), start[1] + length * math.sin(angle)


def _ring(start: Point, heading: float, length: float, sides: int) -> list[Point]:
    """The corners of a ring but for the first."""
    points, at = [], start
    for side in range(sides - 1):
        at = _step(at, heading + side * 360 / sides, length)
        points.append(at)
    return points


def _free(point: Point, corners: list[Point], box: Box, length: float) -> bool:
    inside = box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]
    return inside and all(math.dist(point, other) > 0.8 * length for other in corners)


def _bond(
    rng: random.Random,
    corners: list[Point],
    named: dict[int, str],
    ends: tuple[int, int],
    text_size: float,
) -> Stroke:
    """A stroke that stops short of its corners' letters."""
    start, end = (corners[number] for number in ends)
    length = math.dist(start, end) or 1.0
    gap = min(0.35, 0.62 * text_size / length)
    near, far = (gap if number in named else 0.0 for number in ends)
    lines = rng.choices((1, 2, 3), (0.68, 0.28, 0.04))[0]
    return Stroke(_between(start, end, near), _between(start, end, 1 - far), lines)


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _boxes(rng: random.Random, box: Box, text_size: float) -> Sketch:
    """Boxes and diamonds in a row or a column, an arrow from each to the next or back."""
    down = box[3] - box[1] > box[2] - box[0]
    extent = (box[3] - box[1]) if down else (box[2] - box[0])
    count = max(2, min(4, int(extent / (3.4 * text_size))))
    strokes: list[Stroke] = []
    texts = []
    pitch = extent / count
    half = (pitch * 0.3, min(0.3 * pitch, text_size)) if not down else (1.4 * text_size, pitch / 4)
    for number in range(count):
        middle = _middle(box, down, pitch * (number + 0.5))
        strokes += _outline(rng, middle, half)
        texts.append((rng.choice(SYMBOLS), middle))
        if number:
            strokes.append(_arrow(rng, box, down, pitch * number, half[1] if down else half[0]))
    return Sketch(tuple(strokes), tuple(texts))


def _middle(box: Box, down: bool, along: float) -> Point:
    if down:
        return (box[0] + box[2]) / 2, box[1] + along
    return box[0] + along, (box[1] + box[3]) / 2


def _outline(rng: random.Random, middle: Point, half: Point) -> list[Stroke]:
    (x, y), (w, h) = middle, half
    if rng.random() < 0.3:
        points = [(x, y - h * 1.3), (x + w * 1.2, y), (x, y + h * 1.3), (x - w * 1.2, y)]
    else:
        points = [(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]
    return [Stroke(a, b) for a, b in zip(points, [*points[1:], points[0]], strict=True)]


def _arrow(rng: random.Random, box: Box, down: bool, along: float, half: float) -> Stroke:
    pitch_half = max(4.0, half * 0.55)
    start, end = (_middle(box, down, along + shift) for shift in (-pitch_half, pitch_half))
    if rng.random() < 0.3:
        start, end = end, start
    return Stroke(start, end, arrow=rng.random() < 0.9)
