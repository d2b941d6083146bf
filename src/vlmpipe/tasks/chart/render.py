"""A chart as people look at it in the report, drawn from what was parsed and nothing else."""

from __future__ import annotations

from html import escape

from vlmpipe.tasks.chart.model import AxisChart, Chart, Flowchart, number_text

WIDTH, ROW, LABEL = 360, 22, 110
"""Pixels: of the whole drawing, of a bar's row, of the labels to the left."""

ARROWS = {"-->": "→", "---": "–", "<-->": "↔", "-.->": "⇢", "==>": "⇒"}


def render_chart(chart: Chart) -> str:
    """Bars or slices as an SVG of one row each; nodes and arrows as two lists."""
    if isinstance(chart, Flowchart):
        return _flow_html(chart)
    if isinstance(chart, AxisChart):
        rows = list(zip(chart.categories * (1 + len(chart.more)), chart.all_values, strict=True))
        low, high = chart.y_axis.bounds or (0.0, 0.0)
        kinds = " and ".join(dict.fromkeys(series.kind for series in chart.series))
        names = [kinds, chart.x_title, chart.y_axis.title]
        names += [f"{number_text(low)} – {number_text(high)}"] if chart.y_axis.bounds else []
    else:
        rows, names = list(chart.slices), [chart.kind]
    caption = escape(" · ".join(filter(None, [chart.title, *names])))
    return f"<figure>{_bars_svg(rows)}<figcaption>{caption}</figcaption></figure>"


def _bars_svg(rows: list[tuple[str, float]]) -> str:
    largest = max((abs(value) for _, value in rows), default=0.0) or 1.0
    bars = "".join(
        _bar_svg(place, label, value, abs(value) / largest)
        for place, (label, value) in enumerate(rows)
    )
    return f'<svg width="{WIDTH}" height="{len(rows) * ROW}" role="img">{bars}</svg>'


def _bar_svg(place: int, label: str, value: float, share: float) -> str:
    top = place * ROW
    width = round(share * (WIDTH - LABEL - 60), 1)
    return (
        f'<text x="{LABEL - 6}" y="{top + 15}" text-anchor="end" font-size="12">'
        f"{escape(label)}</text>"
        f'<rect x="{LABEL}" y="{top + 3}" width="{width}" height="{ROW - 6}" fill="#7a9cc6"/>'
        f'<text x="{LABEL + width + 5}" y="{top + 15}" font-size="12">{number_text(value)}</text>'
    )


def _flow_html(chart: Flowchart) -> str:
    nodes = "".join(f"<li>{node.shape}: {escape(node.text)}</li>" for node in chart.nodes)
    arrows = "".join(
        f"<li>{escape(chart.nodes[edge.source].text)} {ARROWS.get(edge.link, escape(edge.link))}"
        f" {escape(chart.nodes[edge.target].text)}"
        f"{f' ({escape(edge.label)})' if edge.label else ''}</li>"
        for edge in chart.edges
    )
    return f"<p>flowchart {chart.direction}</p><ul>{nodes}</ul><ul>{arrows}</ul>"
