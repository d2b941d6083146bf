"""The statements of a Mermaid flowchart: nodes, and arrows between them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from vlmpipe.tasks.chart.labels import QUOTED, plain
from vlmpipe.tasks.chart.model import ChartError, Direction, Edge, Flowchart, Node, Shape
from vlmpipe.tasks.chart.writer import BRACKETS

BARE = r"[\w.,:?!'&+/ -]+"
"""Texts that flowcharts take without quotes."""

NODE_ID = re.compile(r"\w+")
LINK = re.compile(
    rf"\s*(?:-->\s*(?:\|\s*({QUOTED}|{BARE})\s*\|)?|--\s*({QUOTED}|[\w.,:?!'&+/ ]+?)\s*-->)\s*"
)
SHAPES: tuple[tuple[Shape, re.Pattern[str]], ...] = tuple(
    (shape, re.compile(rf"{re.escape(left)}\s*({QUOTED}|{BARE})\s*{re.escape(right)}"))
    for shape, (left, right) in BRACKETS.items()
)
RESERVED = frozenset({"end", "subgraph", "style", "class", "classDef", "click", "linkStyle"})


@dataclass
class _Drawing:
    """What has been read so far; nodes by their id, in order of appearance."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[tuple[str, str, str]] = field(default_factory=list)


def flowchart_of(direction: Direction, lines: list[str]) -> Flowchart:
    """The flowchart of these statements, one a line.

    Raises:
        ChartError: for a line that is neither a node nor a chain of arrows, or no line at all.
    """
    drawing = _Drawing()
    for line in lines:
        _read_statement(line.removesuffix(";").rstrip(), drawing)
    if not drawing.nodes:
        raise ChartError("the flowchart has no nodes")
    places = {name: place for place, name in enumerate(drawing.nodes)}
    edges = (Edge(places[source], places[target], label) for source, target, label in drawing.edges)
    return Flowchart(direction, tuple(drawing.nodes.values()), tuple(edges))


def _read_statement(line: str, drawing: _Drawing) -> None:
    source, place = _read_node(line, 0, drawing)
    while place < len(line):
        link = LINK.match(line, place)
        if not link:
            raise ChartError(f"{line[:60]!r} is not a statement of a flowchart")
        target, place = _read_node(line, link.end(), drawing)
        drawing.edges.append((source, target, plain(link[1] or link[2] or "")))
        source = target


def _read_node(line: str, place: int, drawing: _Drawing) -> tuple[str, int]:
    """The id of the node that begins at `place`, and where it ends."""
    match = NODE_ID.match(line, place)
    if not match or match[0] in RESERVED:
        raise ChartError(f"there is no node at character {place + 1} of {line[:60]!r}")
    name = match[0]
    for shape, pattern in SHAPES:
        if text := pattern.match(line, match.end()):
            drawing.nodes[name] = Node(shape, plain(text[1]))
            return name, text.end()
    # Mermaid draws a node that is nowhere described as a box with its id.
    drawing.nodes.setdefault(name, Node("box", name))
    return name, match.end()
