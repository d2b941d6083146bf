"""The statements of a Mermaid flowchart: nodes, and arrows between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from vlmpipe.tasks.chart.flow_links import LINK, QUOTED, link_form, link_text
from vlmpipe.tasks.chart.labels import plain
from vlmpipe.tasks.chart.model import ChartError, Direction, Edge, Flowchart, Node, Shape
from vlmpipe.tasks.chart.writer import BRACKETS

MAX_EDGES = 500
"""Mermaid's own limit (`maxEdges`): it draws no chart with more."""

HEAD = re.compile(r"(?:flowchart(?:-elk)?|graph)(?: (TD|TB|LR|BT|RL))? ?(?=[;\n]|$)")
NODE_ID = re.compile(r"(?!&)(?:[\w.!$'*+?/&]|-(?![->.\s]|$)|=(?!=))++")
CLASS = re.compile(r":::\w++(?:-\w++)*+")
AND = re.compile(r" ?& ?")
BARE = r'[^][(){}|"]++'
BARE_INSIDE: dict[str, str] = {
    "[/": r'(?:[^][(){}|"/\\]|[/\\](?!\]))++',
    "[\\": r'(?:[^][(){}|"/\\]|[/\\](?!\]))++',
    "(-": r'(?:[^][(){}|"-]|-(?!\)))++',
}
"""Where the closing bracket begins with a character that other texts may hold."""

SHAPES: tuple[tuple[Shape, re.Pattern[str]], ...] = tuple(
    (
        shape,
        re.compile(
            rf"{re.escape(left)} ?({QUOTED}|{BARE_INSIDE.get(left, BARE)}) ?{re.escape(right)}"
        ),
    )
    for shape, (left, right) in BRACKETS.items()
)
SHAPE_DATA = re.compile(r"@\{([^{}]*+)\}")
DATA_LABEL = re.compile(rf"\blabel ?: ?({QUOTED}|[^,\n]++)")
DATA_SHAPE = re.compile(r"\bshape ?: ?([\w-]++)")
NAMED_SHAPES: dict[str, Shape] = {
    **dict.fromkeys(("rounded", "event"), "round"),
    **dict.fromkeys(("stadium", "pill", "terminal"), "stadium"),
    **dict.fromkeys(("diam", "diamond", "decision", "question"), "diamond"),
    **dict.fromkeys(("cyl", "cylinder", "database", "db"), "cylinder"),
    **dict.fromkeys(("circle", "circ"), "circle"),
    **dict.fromkeys(("hex", "hexagon", "prepare"), "hexagon"),
    **dict.fromkeys(("fr-rect", "subroutine", "subprocess"), "subroutine"),
}
"""Of `A@{ shape: ... }`; every other one counts as a box."""

SEPARATOR = re.compile(r" ?(?:[;\n][ ;\n]*+|$)")
SUBGRAPH = re.compile(
    rf"subgraph(?=[ ;\n]|$)(?: ({QUOTED}|[^][;\n\"]++))?(?:\[({QUOTED}|[^]\n\"]++)\])?"
)
END = re.compile(r"end(?=[ ;\n]|$)")
DIRECTION = re.compile(r"direction (?:TD|TB|LR|BT|RL)(?=[ ;\n]|$)")
APPEARANCE = re.compile(r"(?:style|classDef|class|click|linkStyle) [^;\n]*+")
RESERVED = frozenset({"end", "subgraph", "style", "class", "classDef", "click", "linkStyle"})


@dataclass
class _Drawing:
    """What has been read so far; nodes by their id, in order of appearance."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[tuple[str, str, str, str]] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    """Titles of subgraphs: an arrow may end at one."""

    open_groups: int = 0
    described: set[str] = field(default_factory=set)


def flowchart_of(direction: str | None, text: str) -> Flowchart:
    """The flowchart of these statements, separated by line ends or semicolons.

    `text` has single white space. Styles, classes and links to pages are passed over.

    Raises:
        ChartError: for a statement that is none of a flowchart, for no node at all, or for more
            than 500 arrows.
    """
    drawing, text, place = _Drawing(), text.lstrip(" ;\n"), 0
    while place < len(text):
        place = _read_statement(text, place, drawing)
    if not drawing.nodes or drawing.open_groups:
        raise ChartError("the flowchart has no nodes, or a subgraph without an end")
    return _flowchart(direction, drawing)


def _flowchart(direction: str | None, drawing: _Drawing) -> Flowchart:
    for name in drawing.groups.keys() & drawing.nodes.keys() - drawing.described:
        drawing.nodes[name] = Node("box", drawing.groups[name])
    places = {name: place for place, name in enumerate(drawing.nodes)}
    edges = (Edge(places[edge[0]], places[edge[1]], *edge[2:]) for edge in drawing.edges)
    way: dict[str | None, Direction] = {"LR": "LR", "BT": "BT", "RL": "RL"}
    return Flowchart(way.get(direction, "TD"), tuple(drawing.nodes.values()), tuple(edges))


def _read_statement(text: str, place: int, drawing: _Drawing) -> int:
    """Where the statement after the one that begins at `place` begins."""
    if match := SUBGRAPH.match(text, place):
        title = plain(match[2] or match[1] or "")
        drawing.groups[plain(match[1] or "")] = title
        drawing.open_groups += 1
    elif match := END.match(text, place):
        if not drawing.open_groups:
            raise ChartError("there is an end without a subgraph")
        drawing.open_groups -= 1
    else:
        match = DIRECTION.match(text, place) or APPEARANCE.match(text, place)
    place = match.end() if match else _read_chain(text, place, drawing)
    separator = SEPARATOR.match(text, place)
    if not separator:
        raise _fault(text, place)
    return separator.end()


def _read_chain(text: str, place: int, drawing: _Drawing) -> int:
    sources, place = _read_nodes(text, place, drawing)
    while link := LINK.match(text, place):
        targets, place = _read_nodes(text, link.end(), drawing)
        form, label = link_form(link), _label(link_text(link))
        if len(drawing.edges) + len(sources) * len(targets) > MAX_EDGES:
            raise ChartError(f"there are more than {MAX_EDGES} arrows")
        if form:
            drawing.edges += [(a, b, label, form) for a in sources for b in targets]
        sources = targets
    return place


def _read_nodes(text: str, place: int, drawing: _Drawing) -> tuple[list[str], int]:
    """The ids of nodes joined by `&`, and where they end."""
    name, place = _read_node(text, place, drawing)
    names = [name]
    while joint := AND.match(text, place):
        name, place = _read_node(text, joint.end(), drawing)
        names.append(name)
    return names, place


def _read_node(text: str, place: int, drawing: _Drawing) -> tuple[str, int]:
    """The id of the node that begins at `place`, and where it ends."""
    match = NODE_ID.match(text, place)
    if not match or match[0] in RESERVED:
        raise _fault(text, place)
    name, place = match[0], match.end()
    # Mermaid draws a node that is nowhere described as a box with its id.
    drawing.nodes.setdefault(name, Node("box", name))
    for found in _descriptions(text, place):
        drawing.nodes[name], place = found
        drawing.described.add(name)
    styled = CLASS.match(text, place)
    return name, styled.end() if styled else place


def _descriptions(text: str, place: int) -> Iterator[tuple[Node, int]]:
    """Shape and text of the node, in brackets and as data after it, each with where it ends."""
    for shape, pattern in SHAPES:
        if match := pattern.match(text, place):
            yield Node(shape, _label(match[1])), match.end()
            place = match.end()
            break
    data = SHAPE_DATA.match(text, place)
    label = DATA_LABEL.search(data[1]) if data else None
    if data and label:
        named = DATA_SHAPE.search(data[1])
        shape = NAMED_SHAPES.get(named[1], "box") if named else "box"
        yield Node(shape, _label(label[1])), data.end()


def _label(text: str) -> str:
    """Without line breaks and without the marks of a text in Markdown."""
    bare = text.strip().removeprefix('"').removesuffix('"')
    if bare.startswith("`") and bare.endswith("`"):
        bare = bare.strip("`")
    return plain(f'"{re.sub("<br ?/?>", " ", bare)}"')


def _fault(text: str, place: int) -> ChartError:
    line = text[place:].partition("\n")[0][:60]
    return ChartError(f"{line!r} is not a statement of a flowchart, or not the end of one")
