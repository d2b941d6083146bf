"""The statements of a Mermaid xychart: titles, axes, one series of values or several."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from vlmpipe.tasks.chart.labels import NUMBER, QUOTED, plain
from vlmpipe.tasks.chart.model import (
    Axis,
    AxisChart,
    AxisKind,
    ChartError,
    Series,
    number_text,
)

WORD = r"[A-Za-z0-9_.&+*=#-]++"
"""What Mermaid takes without quotes in an xychart."""

TEXT = rf"(?:{QUOTED}|{WORD}(?: {WORD})*+)"
RANGE = rf"({NUMBER}) ?--> ?({NUMBER})"
AXIS_TEXT = rf"(?:({QUOTED}) ?|({WORD}(?: {WORD})*?)(?: |$))?"
"""Bare words are taken one by one: a number before an arrow is no part of them."""

HEAD = re.compile(r"xychart(?:-beta)?(?: (horizontal|vertical))? ?(?=[;\n]|$)")
PIECE = re.compile(r'"[^"\n]*"|%%[^\n]*|[;\n]|[^"%;\n]+|.')
TITLE = re.compile(rf"title ?({TEXT})", re.IGNORECASE)
CATEGORIES = re.compile(rf"x-axis ?(?:({TEXT}) ?)?\[(.*)\]", re.IGNORECASE)
X_RANGE = re.compile(rf"x-axis ?{AXIS_TEXT}(?:{RANGE})?", re.IGNORECASE)
Y_AXIS = re.compile(rf"y-axis ?{AXIS_TEXT}(?:{RANGE})?", re.IGNORECASE)
SERIES = re.compile(rf"(bar|line) ?(?:{TEXT} ?)?\[(.*)\]", re.IGNORECASE)
LISTED_TEXT = re.compile(rf" ?({TEXT}) ?(,|$)")
LISTED_NUMBER = re.compile(rf" ?({NUMBER}) ?(,|$)")


@dataclass
class _Draft:
    """What has been read so far; a later statement takes the place of an earlier one."""

    title: str = ""
    x_title: str = ""
    categories: tuple[str, ...] | None = None
    x_range: tuple[float, float] | None = None
    y_axis: Axis = field(default_factory=Axis)
    series: list[Series] = field(default_factory=list)


def axis_chart_of(text: str, *, horizontal: bool) -> AxisChart:
    """The chart of these statements, separated by line ends or semicolons.

    Without categories they are the numbers at which Mermaid puts the values.

    Raises:
        ChartError: for anything else, without a series, or when categories and values differ in
            number.
    """
    draft = _Draft()
    for statement in _statements(text):
        _read(statement, draft)
    if not draft.series:
        raise ChartError("at least one bar or line belongs to an xychart")
    first, *more = draft.series
    categories = draft.categories or _numbered(len(first.values), draft.x_range)
    for series in draft.series:
        if len(series.values) != len(categories):
            raise ChartError(
                f"there are {len(categories)} categories and {len(series.values)} values"
            )
    return AxisChart(
        first.kind,
        categories,
        first.values,
        draft.title,
        draft.x_title,
        draft.y_axis,
        tuple(more),
        horizontal,
    )


def _statements(text: str) -> list[str]:
    """Split at semicolons and line ends outside quotes, comments taken off."""
    statements = [""]
    for piece in PIECE.findall(text):
        if piece in ";\n":
            statements.append("")
        elif not piece.startswith("%%"):
            statements[-1] += piece
    return list(filter(None, map(str.strip, statements)))


def _read(statement: str, draft: _Draft) -> None:
    if match := TITLE.fullmatch(statement):
        draft.title = plain(match[1])
    elif match := CATEGORIES.fullmatch(statement):
        draft.x_title = plain(match[1] or "")
        draft.categories = tuple(map(plain, _listed(match[2], LISTED_TEXT)))
    elif match := X_RANGE.fullmatch(statement):
        draft.x_title, draft.x_range = _titled_range(match)
    elif match := Y_AXIS.fullmatch(statement):
        draft.y_axis = Axis(*_titled_range(match))
    elif match := SERIES.fullmatch(statement):
        kind: AxisKind = "bar" if match[1].lower() == "bar" else "line"
        values = tuple(map(float, _listed(match[2], LISTED_NUMBER)))
        draft.series.append(Series(kind, values))
    else:
        raise ChartError(f"{statement[:60]!r} is not a statement of an xychart")


def _titled_range(match: re.Match[str]) -> tuple[str, tuple[float, float] | None]:
    title = plain(match[1] or match[2] or "")
    return title, (float(match[3]), float(match[4])) if match[3] else None


def _numbered(count: int, bounds: tuple[float, float] | None) -> tuple[str, ...]:
    """Where Mermaid puts values without categories: evenly over the axis, 1, 2, 3 without one."""
    low, high = bounds or (1.0, float(count))
    step = (high - low) / (count - 1) if count > 1 else 0.0
    return tuple(number_text(low + place * step) for place in range(count))


def _listed(text: str, item: re.Pattern[str]) -> list[str]:
    items: list[str] = []
    place, comma = 0, ","
    while comma:
        match = item.match(text, place)
        if not match:
            raise ChartError(f"{text[:60]!r} is not a list")
        items.append(match[1])
        place, comma = match.end(), match[2]
    return items
