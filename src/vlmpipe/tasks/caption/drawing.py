"""Figures of labelled shapes and structures of rings, as pictures."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from vlmpipe.tasks.caption.scenes import FigureScene, Ring, RingScene, Scene
from vlmpipe.tasks.chart.drawing import Style, draw
from vlmpipe.tasks.chart.drawing.canvas import Canvas, Point

if TYPE_CHECKING:
    from PIL import Image

MARGIN = 14
CORNERS = {"triangle": 3, "diamond": 4, "pentagon": 5, "hexagon": 6}
RADIUS, BOND = 40, 46
"""Pixels: from a ring's middle to its atoms, and of a bond beside it."""


def draw_scene(rng: random.Random, scene: Scene, style: Style) -> Image.Image:
    """An RGB picture, no side under 112 pixels; all values are printed."""
    if isinstance(scene, FigureScene):
        return _draw_figure(rng, scene, style)
    if isinstance(scene, RingScene):
        return _draw_structure(scene, style)
    return draw(scene, replace(style, printed=True))


def _draw_figure(rng: random.Random, scene: FigureScene, style: Style) -> Image.Image:
    """Shapes in rows, shifted and sized by lot within their cells."""
    count = len(scene.shapes)
    columns = count if count <= 3 else math.ceil(math.sqrt(count))
    cell = 110
    rows = math.ceil(count / columns)
    canvas = Canvas(columns * cell + 2 * MARGIN, rows * cell + 2 * MARGIN, style.paper)
    for place, (shape, letter) in enumerate(scene.shapes):
        row, column = divmod(place, columns)
        radius = rng.uniform(0.33, 0.45) * cell
        spare = cell / 2 - radius
        centre = (
            MARGIN + cell * (column + 0.5) + rng.uniform(-spare, spare),
            MARGIN + cell * (row + 0.5) + rng.uniform(-spare, spare),
        )
        _draw_shape(canvas, shape, centre, radius, style, fill=rng.random() < 0.4)
        canvas.text(centre, letter, style.print, style.ink, halo=True)
    return canvas.image()


def _draw_shape(
    canvas: Canvas, shape: str, centre: Point, radius: float, style: Style, *, fill: bool
) -> None:
    colour = style.faint if fill else None
    x, y = centre
    if shape == "circle":
        canvas.circle(centre, radius, colour, style.ink, style.line_width)
    elif shape in ("square", "rectangle"):
        half = radius * 0.8, radius * (0.8 if shape == "square" else 0.45)
        box = (x - half[0], y - half[1], x + half[0], y + half[1])
        canvas.box(box, colour, style.ink, style.line_width)
    else:
        points = _corners(centre, radius, CORNERS[shape], -90)
        canvas.polygon(points, colour, style.ink, style.line_width)


def _corners(centre: Point, radius: float, count: int, first: float) -> list[Point]:
    """Corners of a regular figure, the first at `first` degrees clockwise from three o'clock."""
    return [_at(centre, radius, first + 360 * place / count) for place in range(count)]


def _at(centre: Point, distance: float, angle: float) -> Point:
    turn = math.radians(angle)
    return centre[0] + distance * math.cos(turn), centre[1] + distance * math.sin(turn)


def _draw_structure(scene: RingScene, style: Style) -> Image.Image:
    groups = [group for ring in scene.rings for group in ring.groups]
    widest = max((style.print.measure(group)[0] for group in groups), default=0)
    # A group's middle is at most so far beside the ring.
    around = MARGIN + BOND / 2 + style.size * 0.5 + widest / 2
    pitch = 2 * RADIUS + BOND
    width = 2 * (around + RADIUS) + pitch * (len(scene.rings) - 1)
    height = 2 * (RADIUS + BOND + style.print.line_height + MARGIN)
    canvas = Canvas(width, height, style.paper)
    for place, ring in enumerate(scene.rings):
        centre = (around + RADIUS + pitch * place, height / 2)
        _draw_ring(canvas, ring, centre, style)
        if place + 1 < len(scene.rings):
            ends = [(centre[0] + RADIUS + step, centre[1]) for step in (0, BOND)]
            canvas.line(ends, style.ink, style.line_width)
    return canvas.image()


def _draw_ring(canvas: Canvas, ring: Ring, centre: Point, style: Style) -> None:
    points = _corners(centre, RADIUS, ring.atoms, 180)
    canvas.polygon(points, None, style.ink, style.line_width)
    inner = _corners(centre, RADIUS * 0.78, ring.atoms, 180)
    for bond in range(ring.double_bonds):
        canvas.line(inner[2 * bond : 2 * bond + 2], style.ink, style.line_width)
    # Upper right and lower left: groups of neighbouring rings stay apart.
    for group, atom in zip(ring.groups, (2, ring.atoms - 1), strict=False):
        angle = 180 + 360 * atom / ring.atoms
        tip = _at(centre, RADIUS + BOND * 0.6, angle)
        canvas.line([points[atom], tip], style.ink, style.line_width)
        canvas.text(_at(tip, style.size * 0.75, angle), group, style.print, style.ink, halo=True)
