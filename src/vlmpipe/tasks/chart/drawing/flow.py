"""Flowcharts, on a grid: steps along one direction, the ways beside them along the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vlmpipe.tasks.chart.drawing.canvas import Canvas, Point
from vlmpipe.tasks.chart.drawing.style import Style
from vlmpipe.tasks.chart.flow_synthetic import FlowPlan
from vlmpipe.tasks.chart.model import Edge, Node

if TYPE_CHECKING:
    from PIL import Image

MARGIN, PADDING, HEAD = 14, 9, 11
"""Pixels: around the picture, around a node's text, length of an arrow's head."""

Size = tuple[float, float]


@dataclass(frozen=True)
class FlowDrawing:
    """Where the nodes of a flowchart stand and how its arrows run.

    Nodes are laid out in (step, lane); `down` says whether steps run down or to the right.
    """

    plan: FlowPlan
    style: Style

    @property
    def down(self) -> bool:
        """Whether steps run down the page."""
        return self.plan.chart.direction == "TD"

    @cached_property
    def texts(self) -> list[str]:
        """Texts of the nodes, broken into lines."""
        width = self.style.size * (9 if self.down else 7)
        return [self.style.print.wrapped(node.text, width) for node in self.plan.chart.nodes]

    @cached_property
    def sizes(self) -> list[Size]:
        """Width and height of each node."""
        nodes = self.plan.chart.nodes
        return [self._size(node, text) for node, text in zip(nodes, self.texts, strict=True)]

    def _size(self, node: Node, text: str) -> Size:
        width, height = self.style.print.measure(text)
        if node.shape == "diamond":
            # The text's corners touch the sides: 1 / 1.6 + 1 / 2.7 < 1.
            return 1.6 * width + 10, 2.7 * height + 6
        ends = height if node.shape == "stadium" else 0
        return width + 2 * PADDING + ends, height + 2 * PADDING

    @cached_property
    def _label_size(self) -> Size:
        """Of the largest label of an arrow."""
        sizes = [
            self.style.print.measure(edge.label) for edge in self.plan.chart.edges if edge.label
        ]
        return max((w for w, _ in sizes), default=0), max((h for _, h in sizes), default=0)

    @cached_property
    def _gaps(self) -> Size:
        """Between nodes side by side, and one below the other."""
        width, height = self._label_size
        return max(self.style.gap, width + 2 * HEAD + 8), max(self.style.gap, height + HEAD + 10)

    @cached_property
    def _columns(self) -> dict[int, float]:
        """Middle of each column."""
        places = [(spot[1] if self.down else spot[0]) for spot in self.plan.spots]
        return _middles(places, [width for width, _ in self.sizes], self._gaps[0])

    @cached_property
    def _rows(self) -> dict[int, float]:
        """Middle of each row."""
        places = [(spot[0] if self.down else spot[1]) for spot in self.plan.spots]
        return _middles(places, [height for _, height in self.sizes], self._gaps[1])

    def middle(self, spot: tuple[int, int]) -> Point:
        """Middle of a spot, whether a node stands there or an arrow turns."""
        step, lane = spot
        column, row = (lane, step) if self.down else (step, lane)
        return self._columns[column], self._rows[row]

    def box(self, place: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of a node."""
        (x, y), (width, height) = self.middle(self.plan.spots[place]), self.sizes[place]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    @cached_property
    def size(self) -> Size:
        """Width and height of the picture."""
        boxes = [self.box(place) for place in range(len(self.sizes))]
        return max(box[2] for box in boxes) + MARGIN, max(box[3] for box in boxes) + MARGIN

    def draw(self) -> Image.Image:
        """The flowchart, as an RGB image."""
        canvas = Canvas(*self.size, self.style.paper)
        for edge in self.plan.chart.edges:
            self._draw_edge(canvas, edge)
        for place, node in enumerate(self.plan.chart.nodes):
            self._draw_node(canvas, place, node)
        return canvas.image()

    def _draw_node(self, canvas: Canvas, place: int, node: Node) -> None:
        style, box = self.style, self.box(place)
        left, top, right, bottom = box
        x, y = self.middle(self.plan.spots[place])
        fill = style.paper if style.hatched else _pale(style.colours[node.shape == "diamond"])
        if node.shape == "diamond":
            corners = [(x, top), (right, y), (x, bottom), (left, y)]
            canvas.polygon(corners, fill, style.ink, style.line_width)
        else:
            radius = {"stadium": (bottom - top) / 2, "round": PADDING}.get(node.shape, 0)
            canvas.box(box, fill, style.ink, style.line_width, radius)
        canvas.text((x, y), self.texts[place], style.print, style.ink)

    def path(self, edge: Edge) -> list[Point]:
        """The points of an arrow, from side to side of its nodes."""
        source, target = self.plan.spots[edge.source], self.plan.spots[edge.target]
        points = [self.middle(source), self.middle(target)]
        if source[0] != target[0] and source[1] != target[1]:
            points.insert(1, self.middle((target[0], source[1])))
        return [
            _leaving(points[0], points[1], self.sizes[edge.source]),
            *points[1:-1],
            _leaving(points[-1], points[-2], self.sizes[edge.target]),
        ]

    def _draw_edge(self, canvas: Canvas, edge: Edge) -> None:
        path = self.path(edge)
        canvas.line(path, self.style.ink, self.style.line_width)
        canvas.polygon(_head(path[-2], path[-1]), self.style.ink, self.style.ink)
        if edge.label:
            (x1, y1), (x2, y2) = path[0], path[1]
            # Nearer to the source, clear of the head.
            at = (
                0.5 * (x1 + x2) - 0.5 * HEAD * _sign(x2 - x1),
                (y1 + y2 - HEAD * _sign(y2 - y1)) / 2,
            )
            width, height = self.style.print.measure(edge.label)
            blank = (
                at[0] - width / 2 - 1,
                at[1] - height / 2,
                at[0] + width / 2 + 1,
                at[1] + height / 2,
            )
            canvas.box(blank, self.style.paper)
            canvas.text(at, edge.label, self.style.print, self.style.ink)


def _middles(places: list[int], sizes: list[float], gap: float) -> dict[int, float]:
    """Middle of each row or column, as wide as its largest node, `gap` from one to the next."""
    widest = {
        place: max(size for other, size in zip(places, sizes, strict=True) if other == place)
        for place in places
    }
    middles, edge = {}, float(MARGIN)
    for place in sorted(widest):
        middles[place] = edge + widest[place] / 2
        edge += widest[place] + gap
    return middles


def _leaving(middle: Point, towards: Point, size: Size) -> Point:
    """Where a straight line from the middle of a node crosses its side."""
    (x, y), (width, height) = middle, size
    return x + _sign(towards[0] - x) * width / 2, y + _sign(towards[1] - y) * height / 2


def _sign(value: float) -> int:
    return (value > 0.001) - (value < -0.001)


def _head(start: Point, tip: Point) -> list[Point]:
    """A triangle that points along the last piece of an arrow."""
    x, y = _sign(tip[0] - start[0]), _sign(tip[1] - start[1])
    back, half = (tip[0] - HEAD * x, tip[1] - HEAD * y), HEAD * 0.45
    return [tip, (back[0] + half * y, back[1] + half * x), (back[0] - half * y, back[1] - half * x)]


def _pale(colour: Iterable[int]) -> tuple[int, int, int]:
    """Three quarters of the way to white: print stays legible on it."""
    red, green, blue = ((each + 3 * 255) // 4 for each in colour)
    return red, green, blue
