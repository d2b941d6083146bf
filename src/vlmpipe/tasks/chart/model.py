"""What a chart says, apart from how it is drawn or written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AxisKind = Literal["bar", "line"]
Direction = Literal["TD", "LR", "BT", "RL"]
"""Top down, left to right, and the two the other way round. The generator draws the first two."""

Shape = Literal[
    "box",
    "round",
    "stadium",
    "diamond",
    "subroutine",
    "cylinder",
    "circle",
    "double circle",
    "ellipse",
    "hexagon",
    "flag",
    "leaning right",
    "leaning left",
    "trapezoid",
    "inverted trapezoid",
]
"""The generator draws the first four."""


class ChartError(ValueError):
    """The text is no chart of the kinds known here; the message says why."""


@dataclass(frozen=True)
class Axis:
    """The axis of values."""

    title: str = ""
    bounds: tuple[float, float] | None = None
    """Lowest and highest value shown."""


@dataclass(frozen=True)
class Series:
    """Bars or a line beside the first ones, over the same categories."""

    kind: AxisKind
    values: tuple[float, ...]


@dataclass(frozen=True)
class AxisChart:
    """Bars, or points joined by a line: one value for each category."""

    kind: AxisKind
    categories: tuple[str, ...]
    values: tuple[float, ...]
    title: str = ""
    x_title: str = ""
    y_axis: Axis = Axis()
    more: tuple[Series, ...] = ()
    """Further series; the generator draws none."""

    horizontal: bool = False

    @property
    def series(self) -> tuple[Series, ...]:
        """All of them, the first included."""
        return (Series(self.kind, self.values), *self.more)

    @property
    def all_values(self) -> tuple[float, ...]:
        """Of all series, one after the other."""
        return tuple(value for series in self.series for value in series.values)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text and number that is to be read."""
        titles = (self.title, self.x_title, self.y_axis.title)
        return (*titles, *self.categories, *map(number_text, self.all_values))


@dataclass(frozen=True)
class PieChart:
    """A circle in slices."""

    slices: tuple[tuple[str, float], ...]
    """Label and value, in order."""

    title: str = ""

    @property
    def kind(self) -> str:
        """`pie`."""
        return "pie"

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text and number that is to be read."""
        values = (number_text(value) for _, value in self.slices)
        return (self.title, *(label for label, _ in self.slices), *values)


@dataclass(frozen=True)
class Node:
    """A step (`box`), an end (`stadium`), a decision (`diamond`) or another shape."""

    shape: Shape
    text: str


@dataclass(frozen=True)
class Edge:
    """An arrow between two nodes, named by their places in `Flowchart.nodes`."""

    source: int
    target: int
    label: str = ""
    link: str = "-->"
    """As Mermaid writes it, at its shortest: `---` has no head, `-.->` is dotted, `==>` thick."""


@dataclass(frozen=True)
class Flowchart:
    """Nodes and arrows."""

    direction: Direction
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...] = ()

    @property
    def kind(self) -> str:
        """`flowchart`."""
        return "flowchart"

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text that is to be read."""
        return (*(node.text for node in self.nodes), *(edge.label for edge in self.edges))


Chart = AxisChart | PieChart | Flowchart


def number_text(value: float) -> str:
    """`40` for 40.0, else the shortest decimal form: `12.5`."""
    return str(int(value)) if value == int(value) else format(value, ".12g")
