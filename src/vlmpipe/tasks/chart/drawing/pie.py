"""Pie charts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vlmpipe.tasks.chart.drawing.canvas import Canvas, Point
from vlmpipe.tasks.chart.drawing.style import Style
from vlmpipe.tasks.chart.model import PieChart, number_text

if TYPE_CHECKING:
    from PIL import Image

MARGIN, SPACE = 12, 8
"""Pixels: around the picture, between its parts."""

ROOM_IN_SLICE, ROOM_AROUND = 0.07, 0.12
"""Shares of the circle from which a value fits into its slice, and beside it."""

MAX_AROUND = 4


@dataclass(frozen=True)
class PieDrawing:
    """Where the parts of a pie chart go."""

    chart: PieChart
    style: Style

    @cached_property
    def shares(self) -> list[float]:
        """Each slice's part of the circle."""
        total = sum(value for _, value in self.chart.slices)
        return [value / total for _, value in self.chart.slices]

    @cached_property
    def layout(self) -> str:
        """Where values stand: `legend`, or `slices` or `around` where all have room there."""
        if self.style.layout == "slices" and min(self.shares) >= ROOM_IN_SLICE:
            return "slices"
        few = len(self.shares) <= MAX_AROUND and min(self.shares) >= ROOM_AROUND
        return "around" if self.style.layout == "around" and few else "legend"

    @cached_property
    def radius(self) -> float:
        """Of the circle."""
        return self.style.plot_height * (0.4 if self.layout == "around" else 0.45)

    @cached_property
    def values(self) -> list[str]:
        """Values as they are printed: as per cents where they add up to a hundred."""
        whole = math.isclose(sum(value for _, value in self.chart.slices), 100)
        return [number_text(value) + "%" * whole for _, value in self.chart.slices]

    @cached_property
    def notes(self) -> list[str]:
        """What the legend, or the place around the circle, says of each slice."""
        joined = {"legend": ": ", "around": "\n"}.get(self.layout)
        pairs = zip(self.chart.slices, self.values, strict=True)
        return [label + (f"{joined}{text}" if joined else "") for (label, _), text in pairs]

    @cached_property
    def title(self) -> str:
        """The title, in lines no wider than the rest."""
        return self.style.title_print.wrapped(self.chart.title, self._body[0])

    @property
    def _title_height(self) -> int:
        return self.style.title_print.measure(self.title)[1] + SPACE if self.title else 0

    @cached_property
    def _notes_size(self) -> tuple[int, int]:
        sizes = [self.style.print.measure(note) for note in self.notes]
        return max(width for width, _ in sizes), max(height for _, height in sizes)

    @cached_property
    def _body(self) -> tuple[float, float]:
        """Width and height of circle and notes."""
        width, height = self._notes_size
        if self.layout == "around":
            return 2 * (self.radius + width + SPACE), 2 * (self.radius + height + SPACE)
        legend = self.style.size + SPACE + width
        rows = (height + SPACE) * len(self.notes)
        return 2 * self.radius + self.style.gap + legend, max(2 * self.radius, rows)

    @cached_property
    def size(self) -> tuple[float, float]:
        """Width and height of the picture."""
        title = self.style.title_print.measure(self.title)[0]
        width = max(self._body[0], title) + 2 * MARGIN
        return width, self._body[1] + self._title_height + 2 * MARGIN

    @cached_property
    def centre(self) -> Point:
        """Of the circle."""
        y = MARGIN + self._title_height + self._body[1] / 2
        left = (self.size[0] - self._body[0]) / 2
        return (self.size[0] / 2 if self.layout == "around" else left + self.radius), y

    def draw(self) -> Image.Image:
        """The chart, as an RGB image."""
        canvas = Canvas(*self.size, self.style.paper)
        if self.title:
            at = (canvas.width / 2, MARGIN)
            canvas.text(at, self.title, self.style.title_print, self.style.ink, "mt")
        self._draw_slices(canvas)
        if self.layout == "around":
            self._draw_around(canvas)
        else:
            self._draw_legend(canvas)
        return canvas.image()

    def _middles(self) -> list[float]:
        """Angle of the middle of each slice, in degrees clockwise from three o'clock."""
        before = [sum(self.shares[:place]) for place in range(len(self.shares))]
        return [
            360 * (start + share / 2) - 90 for start, share in zip(before, self.shares, strict=True)
        ]

    def _draw_slices(self, canvas: Canvas) -> None:
        for place, middle in enumerate(self._middles()):
            half = 180 * self.shares[place]
            colour = self.style.colours[place % len(self.style.colours)]
            angles = (middle - half, middle + half)
            canvas.slice(self.centre, self.radius, angles, colour, self.style.paper)
            if self.layout == "slices":
                dark = sum(colour) < 380
                ink = self.style.paper if dark else self.style.ink
                at = self._at(middle, self.radius * 0.68)
                canvas.text(at, self.values[place], self.style.print, ink)
        canvas.circle(self.centre, self.radius, None, self.style.ink, self.style.line_width)

    def _at(self, angle: float, distance: float) -> Point:
        turn = math.radians(angle)
        return (
            self.centre[0] + distance * math.cos(turn),
            self.centre[1] + distance * math.sin(turn),
        )

    def _draw_around(self, canvas: Canvas) -> None:
        for note, middle in zip(self.notes, self._middles(), strict=True):
            width, height = self.style.print.measure(note)
            turn = math.radians(middle)
            # As far out as the box of the text reaches towards the circle.
            reach = abs(math.cos(turn)) * width / 2 + abs(math.sin(turn)) * height / 2
            at = self._at(middle, self.radius + SPACE / 2 + reach)
            canvas.text(at, note, self.style.print, self.style.ink)

    def _draw_legend(self, canvas: Canvas) -> None:
        side = self.style.size
        row = self._notes_size[1] + SPACE
        left = self.centre[0] + self.radius + self.style.gap
        top = self.centre[1] - row * len(self.notes) / 2
        for place, note in enumerate(self.notes):
            y = top + row * (place + 0.5)
            colour = self.style.colours[place % len(self.style.colours)]
            canvas.box((left, y - side / 2, left + side, y + side / 2), colour, self.style.ink)
            canvas.text((left + side + SPACE, y), note, self.style.print, self.style.ink, "lm")
