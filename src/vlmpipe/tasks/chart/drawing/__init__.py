"""Charts as pictures: axes, pies, flowcharts, in the shipped fonts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmpipe.tasks.chart.drawing.axes import AxisDrawing
from vlmpipe.tasks.chart.drawing.flow import FlowDrawing
from vlmpipe.tasks.chart.drawing.pie import PieDrawing
from vlmpipe.tasks.chart.drawing.style import MIN_PRINT, Style, random_style
from vlmpipe.tasks.chart.flow_synthetic import FlowPlan
from vlmpipe.tasks.chart.model import AxisChart, PieChart

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Drawing", "Style", "Subject", "draw", "drawing_of", "random_style"]

Subject = AxisChart | PieChart | FlowPlan
"""What can be drawn."""

Drawing = AxisDrawing | PieDrawing | FlowDrawing


def draw(subject: Subject, style: Style) -> Image.Image:
    """An RGB picture, no side under 112 pixels."""
    return drawing_of(subject, style).draw()


def drawing_of(subject: Subject, style: Style) -> Drawing:
    """Where everything goes: within `style.limit`, with smaller print if need be, but not under
    15 pixels.
    """
    drawing = _drawing(subject, style)
    while style.size > MIN_PRINT and not _fits(drawing):
        style = style.smaller()
        drawing = _drawing(subject, style)
    return drawing


def _fits(drawing: Drawing) -> bool:
    size, limit = drawing.size, drawing.style.limit
    return size[0] <= limit[0] and size[1] <= limit[1]


def _drawing(subject: Subject, style: Style) -> Drawing:
    if isinstance(subject, AxisChart):
        return AxisDrawing(subject, style)
    if isinstance(subject, PieChart):
        return PieDrawing(subject, style)
    return FlowDrawing(subject, style)
