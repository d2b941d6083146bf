"""What an evaluation came to, as a table that fits eighty columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from vlmpipe.evaluation.side_by_side.every import Evaluation, Standing
    from vlmpipe.evaluation.statistics import Paired
    from vlmpipe.evaluation.summary import Figure

LEGEND = (
    "n: answers. 95 %: bootstrap interval of the mean. Δ and same: against {against}, on samples"
    " that both answered; * p < 0.05 in a paired permutation test. s: median of whole requests."
)


def print_standings(found: Evaluation, report: Path, console: Console) -> None:
    """The table with its legend, and where records and report are."""
    if found.standings:
        console.print(_table(found.standings))
        if len(found.standings) > 1:
            console.print(
                LEGEND.format(against=found.against),
                style="dim",
                highlight=False,
                soft_wrap=True,
            )
    for each in found.passes:
        console.print(f"records: {each.path}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)


def _table(standings: Sequence[Standing]) -> Table:
    metric = standings[0].summary.primary_metric
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("engine", overflow="fold")
    for column in ("n", metric, "95 %", "Δ", "same", "loss", "cut", "fail", "s"):
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    for each in standings:
        table.add_row(*map(escape, _row(each, metric)))
    return table


def _row(standing: Standing, metric: str) -> list[str]:
    summary = standing.summary
    figure, loss = summary.metrics.get(metric), summary.metrics.get("loss")
    return [
        standing.engine,
        str(summary.answered),
        "not measured" if figure is None else f"{figure.value:.3f}",
        _interval(figure),
        _difference(standing.difference),
        "" if standing.same_answers is None else f"{standing.same_answers:.0%}",
        "–" if loss is None else f"{loss.value:.3f}",
        str(summary.cut),
        str(summary.failed),
        f"{summary.latency_s.get('median', 0.0):.2f}",
    ]


def _interval(figure: Figure | None) -> str:
    if figure is None or figure.interval is None:
        return "–"
    return f"{figure.interval.low:.3f}–{figure.interval.high:.3f}"


def _difference(paired: Paired | None) -> str:
    if paired is None or not paired.samples:
        return ""
    return f"{paired.difference:+.3f}{'*' if paired.significant else ''}"
