"""Bar and line charts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vlmpipe.tasks.chart.drawing.canvas import Canvas, Point
from vlmpipe.tasks.chart.drawing.style import Style
from vlmpipe.tasks.chart.model import AxisChart, number_text
from vlmpipe.tasks.chart.scale import ticks

if TYPE_CHECKING:
    from PIL import Image

MARGIN, SPACE, TICK = 10, 6, 5
"""Pixels: around the picture, between its parts, of the marks on the axis."""

MIN_SLOT, EASY_SLOT = 34, 70
"""Width of one category, at least; where its value is printed."""


@dataclass(frozen=True)
class AxisDrawing:
    """Where the parts of a bar or line chart go."""

    chart: AxisChart
    style: Style

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value on the axis."""
        low, high = self.chart.y_axis.bounds or (0.0, max(*self.chart.values, 1.0))
        return (low, high) if low < high else (low, low + 1)

    @cached_property
    def slot(self) -> float:
        """Width of one category."""
        printed = [number_text(value) for value in self.chart.values] if self.style.printed else []
        widest = max(self.style.print.measure(text)[0] for text in ["0", *printed])
        least = max(EASY_SLOT if self.style.printed else MIN_SLOT, widest + 4)
        flat = max(self.style.print.measure(text)[0] for text in self.chart.categories) + 12
        return max(least, flat) if self.style.printed or flat < 2 * MIN_SLOT else least

    @cached_property
    def upright(self) -> bool:
        """Whether labels under the axis have to be turned."""
        widths = (self.style.print.measure(text)[0] for text in self.chart.categories)
        return max(widths) > self.slot - 4

    @cached_property
    def plot(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the area between the axes."""
        label = self.style.print
        marks = max(label.measure(number_text(value))[0] for value in ticks(*self.bounds))
        left = MARGIN + marks + SPACE + TICK
        left += label.line_height + SPACE if self.chart.y_axis.title else 0
        top = MARGIN + self._title_height + label.line_height + SPACE
        width = self.slot * len(self.chart.values)
        return left, top, left + width, top + self.style.plot_height

    @cached_property
    def title(self) -> str:
        """The title, in lines no wider than the plot."""
        width = max(160, self.slot * len(self.chart.values))
        return self.style.title_print.wrapped(self.chart.title, width)

    @property
    def _title_height(self) -> int:
        return self.style.title_print.measure(self.title)[1] if self.title else 0

    @cached_property
    def size(self) -> tuple[float, float]:
        """Width and height of the picture."""
        _, _, right, bottom = self.plot
        title = self.style.title_print.measure(self.title)[0]
        below = self.style.print.line_height + SPACE if self.chart.x_title else 0
        width = max(right + MARGIN + SPACE, title + 2 * MARGIN)
        return width, bottom + TICK + SPACE + self._labels_height + below + MARGIN

    @property
    def _labels_height(self) -> int:
        label = self.style.print
        if not self.upright:
            return label.line_height
        return max(label.measure(text)[0] for text in self.chart.categories)

    def y(self, value: float) -> float:
        """Height of a value in the picture."""
        _, top, _, bottom = self.plot
        low, high = self.bounds
        return bottom - (bottom - top) * (value - low) / (high - low)

    def x(self, place: int) -> float:
        """Middle of a category."""
        return self.plot[0] + self.slot * (place + 0.5)

    def draw(self) -> Image.Image:
        """The chart, as an RGB image."""
        canvas = Canvas(*self.size, self.style.paper)
        self._draw_scale(canvas)
        if self.chart.kind == "bar":
            self._draw_bars(canvas)
        else:
            self._draw_line(canvas)
        self._draw_axes(canvas)
        self._draw_labels(canvas)
        return canvas.image()

    def _draw_scale(self, canvas: Canvas) -> None:
        left, _, right, _ = self.plot
        for value in ticks(*self.bounds):
            y = self.y(value)
            if self.style.grid:
                canvas.line([(left, y), (right, y)], self.style.faint)
            canvas.line([(left - TICK, y), (left, y)], self.style.ink)
            at = (left - TICK - SPACE, y)
            canvas.text(at, number_text(value), self.style.print, self.style.ink, "rm")

    def _draw_axes(self, canvas: Canvas) -> None:
        left, top, right, bottom = self.plot
        corners = [(left, top), (left, bottom), (right, bottom)]
        if self.style.frame:
            corners += [(right, top), (left, top)]
        canvas.line(corners, self.style.ink, self.style.line_width)

    def _draw_bars(self, canvas: Canvas) -> None:
        style = self.style
        colour = style.colours[0]
        for place, value in enumerate(self.chart.values):
            half = self.slot * 0.31
            box = (self.x(place) - half, self.y(value), self.x(place) + half, self.plot[3])
            canvas.box(box, style.paper if style.hatched else colour, style.ink, style.line_width)
            if style.hatched:
                canvas.hatch(box, style.ink, 6)
            if style.printed:
                at = (self.x(place), self.y(value) - 2)
                text = number_text(value)
                canvas.text(at, text, style.print, style.ink, "mb", halo=True)

    def _draw_line(self, canvas: Canvas) -> None:
        style = self.style
        points = [(self.x(place), self.y(value)) for place, value in enumerate(self.chart.values)]
        canvas.line(points, style.colours[0], style.line_width + 1)
        radius = 2 + style.line_width
        for place, point in enumerate(points):
            canvas.circle(point, radius, style.colours[0], style.ink)
            if style.printed:
                at, anchor = _beside(points, place, radius + 3)
                text = number_text(self.chart.values[place])
                canvas.text(at, text, style.print, style.ink, anchor, halo=True)

    def _draw_labels(self, canvas: Canvas) -> None:
        left, top, right, bottom = self.plot
        ink, label = self.style.ink, self.style.print
        under = bottom + TICK + SPACE
        for place, text in enumerate(self.chart.categories):
            canvas.line([(self.x(place), bottom), (self.x(place), bottom + TICK)], ink)
            canvas.text((self.x(place), under), text, label, ink, "mt", upright=self.upright)
        if self.title:
            canvas.text((canvas.width / 2, MARGIN), self.title, self.style.title_print, ink, "mt")
        if self.chart.x_title:
            at = ((left + right) / 2, under + self._labels_height + SPACE)
            canvas.text(at, self.chart.x_title, label, ink, "mt")
        if self.chart.y_axis.title:
            at = (MARGIN, (top + bottom) / 2)
            canvas.text(at, self.chart.y_axis.title, label, ink, "lm", upright=True)


def _beside(points: list[Point], place: int, distance: float) -> tuple[Point, str]:
    """Where a point's value stands clear of the line: below valleys, above all others."""
    x, y = points[place]
    around = [points[other][1] for other in (place - 1, place + 1) if 0 <= other < len(points)]
    if all(other < y for other in around):
        return (x, y + distance), "mt"
    return (x, y - distance), "mb"
