"""Mermaid answers back to charts: white space is free, the format is not."""

from __future__ import annotations

import re
import unicodedata

from vlmpipe.tasks.chart.flow_parser import flowchart_of
from vlmpipe.tasks.chart.labels import QUOTED, plain
from vlmpipe.tasks.chart.model import Axis, AxisChart, AxisKind, Chart, ChartError, PieChart

MAX_CHARACTERS = 20_000
"""Longer answers are no chart that a person would draw."""

BARE = r"[A-Za-z0-9]+"
"""What Mermaid takes without quotes in every chart."""

TEXT = rf"(?:{QUOTED}|{BARE})"
NUMBER = r"[+-]?\d{1,15}(?:\.\d{1,15})?"

HEAD = re.compile(r"xychart(?:-beta)?")
TITLE = re.compile(rf"title\s+({TEXT})")
X_AXIS = re.compile(rf"x-axis\s+(?:({TEXT})\s*)?\[(.*)\]")
Y_AXIS = re.compile(
    rf"y-axis\s+({QUOTED}|{BARE}(?!\S|\s*-->))?\s*(?:({NUMBER})\s*-->\s*({NUMBER}))?"
)
SERIES = re.compile(r"(bar|line)\s*\[(.*)\]")
PIE = re.compile(r"pie(?:\s+showData)?(?:\s+title\s+(\S.*))?")
PIE_TITLE = re.compile(r"title\s+(\S.*)")
SLICE = re.compile(rf"({QUOTED})\s*:\s*({NUMBER})")
LISTED_TEXT = re.compile(rf"\s*({TEXT})\s*(,|$)")
LISTED_NUMBER = re.compile(rf"\s*({NUMBER})\s*(,|$)")
FLOW = re.compile(r"(?:flowchart|graph)\s+(TD|TB|LR)\s*;?")


def parse_chart(text: str) -> Chart:
    """The chart that `text` is in Mermaid; a Markdown fence around it is taken off.

    Raises:
        ChartError: for text that is not a bar, line or pie chart or a flowchart of the parts that
            this package writes, or longer than 20,000 characters.
    """
    if len(text) > MAX_CHARACTERS:
        raise ChartError(f"the text has more than {MAX_CHARACTERS} characters")
    body = unicodedata.normalize("NFC", unfenced(text))
    # Single spaces: patterns that may begin or end with white space stay linear.
    lines = [" ".join(line.split()) for line in body.splitlines() if line.strip()]
    if not lines:
        raise ChartError("the text is empty")
    return _chart(lines[0], lines[1:])


def unfenced(text: str) -> str:
    """Without a Markdown fence around it, and without white space there."""
    text = text.strip()
    if not (text.startswith("```") and text.endswith("```") and "\n" in text):
        return text
    first, rest = text.split("\n", 1)
    return rest.removesuffix("```") if first.strip() in ("```", "```mermaid") else text


def _chart(head: str, lines: list[str]) -> Chart:
    if HEAD.fullmatch(head):
        return _axis_chart(lines)
    if match := PIE.fullmatch(head):
        return _pie(match[1], lines)
    if match := FLOW.fullmatch(head):
        return flowchart_of("LR" if match[1] == "LR" else "TD", lines)
    raise ChartError(f"{head[:60]!r} does not begin a known chart")


def _axis_chart(lines: list[str]) -> AxisChart:
    found: dict[str, re.Match[str]] = {}
    for line in lines:
        name, match = _statement(line)
        if name in found:
            raise ChartError(f"{name} stands there twice")
        found[name] = match
    if not {"x-axis", "series"} <= set(found):
        raise ChartError("an x-axis with categories and one bar or line belong to an xychart")
    return _assembled(found)


def _statement(line: str) -> tuple[str, re.Match[str]]:
    patterns = {"title": TITLE, "x-axis": X_AXIS, "y-axis": Y_AXIS, "series": SERIES}
    for name, pattern in patterns.items():
        if match := pattern.fullmatch(line):
            return name, match
    raise ChartError(f"{line[:60]!r} is not a statement of an xychart")


def _assembled(found: dict[str, re.Match[str]]) -> AxisChart:
    categories = tuple(map(plain, _listed(found["x-axis"][2], LISTED_TEXT)))
    values = tuple(map(float, _listed(found["series"][2], LISTED_NUMBER)))
    if len(categories) != len(values):
        raise ChartError(f"there are {len(categories)} categories and {len(values)} values")
    kind: AxisKind = "bar" if found["series"][1] == "bar" else "line"
    title = plain(found["title"][1]) if "title" in found else ""
    y_axis = _y_axis(found["y-axis"]) if "y-axis" in found else Axis()
    return AxisChart(kind, categories, values, title, plain(found["x-axis"][1] or ""), y_axis)


def _y_axis(match: re.Match[str]) -> Axis:
    bounds = (float(match[2]), float(match[3])) if match[2] else None
    return Axis(plain(match[1] or ""), bounds)


def _pie(title: str | None, lines: list[str]) -> PieChart:
    if title is None and lines and (match := PIE_TITLE.fullmatch(lines[0])):
        title, lines = match[1], lines[1:]
    slices = []
    for line in lines:
        match = SLICE.fullmatch(line)
        if not match or float(match[2]) <= 0:
            raise ChartError(f"{line[:60]!r} is not a slice of a pie")
        slices.append((plain(match[1]), float(match[2])))
    if not slices:
        raise ChartError("the pie has no slices")
    return PieChart(tuple(slices), plain(title or ""))


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
