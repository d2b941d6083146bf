"""Mermaid answers back to charts: white space is free, the format is not."""

from __future__ import annotations

import dataclasses
import re

from vlmpipe.tasks.chart.axis_parser import HEAD as AXIS_HEAD
from vlmpipe.tasks.chart.axis_parser import axis_chart_of
from vlmpipe.tasks.chart.flow_parser import HEAD as FLOW_HEAD
from vlmpipe.tasks.chart.flow_parser import flowchart_of
from vlmpipe.tasks.chart.labels import NUMBER, QUOTED, plain
from vlmpipe.tasks.chart.model import Chart, ChartError, Flowchart, PieChart
from vlmpipe.tasks.chart.source import source_of

MAX_CHARACTERS = 20_000
"""Longer answers are no chart that a person would draw."""

PIE_HEAD = re.compile(r"pie(?: showData)?(?: (title.*|[\"'].*))?")
PIE_TITLE = re.compile(r"title(?: (.*?))?(?: ?%%.*)?")
SLICE = re.compile(rf"({QUOTED}|'[^'\n]*') ?: ?({NUMBER})(?: ?%%.*)?")


def parse_chart(text: str) -> Chart:
    """The chart that `text` is in Mermaid; a Markdown fence around it is taken off.

    Comments, settings, styles and what else says nothing of the chart are passed over; nodes of a
    subgraph are read, its frame is not.

    Raises:
        ChartError: for text that is not a bar, line or pie chart or a flowchart, or longer than
            20,000 characters.
    """
    if len(text) > MAX_CHARACTERS:
        raise ChartError(f"the text has more than {MAX_CHARACTERS} characters")
    source = source_of(text)
    if not source.lines:
        raise ChartError("the text is empty")
    chart = _chart("\n".join(source.lines))
    if isinstance(chart, Flowchart) or chart.title:
        return chart
    return dataclasses.replace(chart, title=source.title)


def _chart(body: str) -> Chart:
    if head := AXIS_HEAD.match(body):
        return axis_chart_of(body[head.end() :], horizontal=head[1] == "horizontal")
    if head := FLOW_HEAD.match(body):
        return flowchart_of(head[1], body[head.end() :])
    lines = body.split("\n")
    if head := PIE_HEAD.fullmatch(lines[0]):
        return _pie([*([head[1]] if head[1] else []), *lines[1:]])
    raise ChartError(f"{lines[0][:60]!r} does not begin a known chart")


def _pie(lines: list[str]) -> PieChart:
    title, slices = "", []
    for line in lines:
        if match := PIE_TITLE.fullmatch(line):
            title = plain(match[1] or "")
        elif match := SLICE.fullmatch(line):
            slices.append((plain(match[1]), float(match[2])))
        else:
            raise ChartError(f"{line[:60]!r} is not a slice of a pie")
    if not slices or min(value for _, value in slices) < 0:
        raise ChartError("the pie has no slices, or some below 0")
    return PieChart(tuple(slices), title)
