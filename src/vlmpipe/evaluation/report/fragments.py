"""What tasks render of untrusted answers, rebuilt so that it can do nothing but look.

Tasks escape what they render. Here it passes a second gate: prose and tables without attributes,
drawings with nothing but geometry and colours; no address, script, handler or style sheet.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from vlmpipe.evaluation.report.untrusted import INLINE, STRUCTURE, Attributes, Policy, rebuilt

MAX_CHARACTERS = 400_000
"""Of a fragment; the drawing of a large molecule takes some 50,000."""

PROSE = frozenset(
    {"p", "br", "ul", "ol", "li", "dl", "dt", "dd", "figure", "figcaption", "div", "span"}
    | {"strong", "em", "code", "pre"}
)
SHAPES = frozenset(
    {"g", "path", "rect", "line", "circle", "ellipse", "polygon", "polyline", "text", "tspan"}
)
GEOMETRY = frozenset(
    {"x", "y", "x1", "y1", "x2", "y2", "dx", "dy", "cx", "cy", "r", "rx", "ry", "width", "height"}
    | {"viewbox", "d", "points", "transform", "role"}
)
PAINT = frozenset(
    {"fill", "fill-opacity", "fill-rule", "opacity", "stroke", "stroke-width", "stroke-opacity"}
    | {"stroke-linecap", "stroke-linejoin", "stroke-dasharray", "stroke-miterlimit"}
    | {"font-size", "font-family", "font-weight", "text-anchor", "dominant-baseline"}
)
_HARMLESS = re.compile(r"(?!.*url)[\w\s.,#%()+-]*", re.IGNORECASE | re.ASCII | re.DOTALL)
"""A value that can neither name an address nor end its attribute."""


def fragment_html(fragment: str, marked: Collection[tuple[int, int]] = ()) -> str | None:
    """Inert HTML of what a task rendered; None where it is longer than 400,000 characters.

    `marked` are (row, place in the row) of table cells that are given the class `off`.
    """
    if len(fragment) > MAX_CHARACTERS:
        return None
    return rebuilt(fragment, _FRAGMENTS, marked)


def _keeps(tag: str, within: Sequence[str]) -> bool:
    # A browser ends a drawing at the first element that is none of its own.
    if "svg" in within:
        return tag in SHAPES
    return tag == "svg" or tag in PROSE | STRUCTURE | INLINE


def _attributes(tag: str, attrs: Attributes) -> str:
    """Geometry and colours; those of a `style` as attributes of their own."""
    if tag != "svg" and tag not in SHAPES:
        return ""
    given = {name: value or "" for name, value in attrs}
    declared = (each.partition(":") for each in given.pop("style", "").split(";"))
    given |= {name.strip().lower(): value.strip() for name, _, value in declared}
    if tag == "svg":
        # Without one, a browser cuts a drawing off where it would scale others down.
        given.setdefault("viewbox", f"0 0 {given.get('width', '')} {given.get('height', '')}")
    return "".join(
        f' {name}="{value}"'
        for name, value in given.items()
        if name in GEOMETRY | PAINT and _HARMLESS.fullmatch(value)
    )


_FRAGMENTS = Policy(keeps=_keeps, attributes=_attributes, shows_comments=False)
