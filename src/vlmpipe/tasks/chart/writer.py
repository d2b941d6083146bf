"""Charts as Mermaid 11 reads them: every label quoted, since it reads bare Hangul as an error."""

from __future__ import annotations

from string import ascii_uppercase

from vlmpipe.tasks.chart.labels import escaped
from vlmpipe.tasks.chart.model import (
    AxisChart,
    Chart,
    Edge,
    Node,
    PieChart,
    Series,
    Shape,
    number_text,
)

BRACKETS: dict[Shape, tuple[str, str]] = {
    "double circle": ("(((", ")))"),
    "circle": ("((", "))"),
    "stadium": ("([", "])"),
    "ellipse": ("(-", "-)"),
    "cylinder": ("[(", ")]"),
    "subroutine": ("[[", "]]"),
    "leaning right": ("[/", "/]"),
    "trapezoid": ("[/", "\\]"),
    "leaning left": ("[\\", "\\]"),
    "inverted trapezoid": ("[\\", "/]"),
    "hexagon": ("{{", "}}"),
    "flag": (">", "]"),
    "box": ("[", "]"),
    "round": ("(", ")"),
    "diamond": ("{", "}"),
}
"""What encloses a node's text; `([` stands before `(`, which begins it."""


def mermaid(chart: Chart) -> str:
    """The chart in Mermaid, one statement a line, without indentation."""
    if isinstance(chart, AxisChart):
        return "\n".join(_axis_lines(chart))
    if isinstance(chart, PieChart):
        return "\n".join(_pie_lines(chart))
    nodes = [f"{node_id(place)}{_node(node)}" for place, node in enumerate(chart.nodes)]
    return "\n".join([f"flowchart {chart.direction}", *nodes, *map(_edge, chart.edges)])


def node_id(place: int) -> str:
    """A to Z, then AA, AB and so on."""
    head, tail = divmod(place, len(ascii_uppercase))
    return (node_id(head - 1) if head else "") + ascii_uppercase[tail]


def _quoted(text: str) -> str:
    return f'"{escaped(text)}"'


def _axis_lines(chart: AxisChart) -> list[str]:
    categories = ", ".join(map(_quoted, chart.categories))
    return [
        "xychart-beta horizontal" if chart.horizontal else "xychart-beta",
        *([f"title {_quoted(chart.title)}"] if chart.title else []),
        " ".join(
            ["x-axis", *([_quoted(chart.x_title)] if chart.x_title else []), f"[{categories}]"]
        ),
        *_y_axis(chart),
        *(_series(each) for each in (Series(chart.kind, chart.values), *chart.more)),
    ]


def _series(series: Series) -> str:
    return f"{series.kind} [{', '.join(map(number_text, series.values))}]"


def _y_axis(chart: AxisChart) -> list[str]:
    parts = [_quoted(chart.y_axis.title)] if chart.y_axis.title else []
    if chart.y_axis.bounds:
        parts.append(" --> ".join(map(number_text, chart.y_axis.bounds)))
    return [" ".join(["y-axis", *parts])] if parts else []


def _pie_lines(chart: PieChart) -> list[str]:
    # A pie's title runs to the end of its line: quotes would be part of it.
    head = f"pie title {escaped(chart.title)}" if chart.title else "pie"
    return [head, *(f"{_quoted(label)} : {number_text(value)}" for label, value in chart.slices)]


def _node(node: Node) -> str:
    left, right = BRACKETS[node.shape]
    return f"{left}{_quoted(node.text)}{right}"


def _edge(edge: Edge) -> str:
    label = f"|{_quoted(edge.label)}|" if edge.label else ""
    return f"{node_id(edge.source)} {edge.link}{label} {node_id(edge.target)}"
