"""`vlmpipe compare`: what differs between two runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlmpipe.cli import options
from vlmpipe.cli.output import print_json

if TYPE_CHECKING:
    from vlmpipe.evaluation.run_difference import (
        AnswersDifference,
        Change,
        DataDifference,
        RunDifference,
        StageMetrics,
    )
    from vlmpipe.evaluation.statistics import Paired

OUTPUTS = Path("outputs")
LISTED = 5
SHOWN_CHARACTERS = 48
LEGEND = (
    "Δ: second minus first, with its 95 % bootstrap interval; p: paired permutation test,"
    " * below 0.05."
)

RunName = typer.Argument(help="Name of a run under --outputs-dir, or its folder.", metavar="RUN")


def compare(
    first: Annotated[str, RunName],
    second: Annotated[str, RunName],
    outputs_dir: Annotated[
        Path, typer.Option("--outputs-dir", help="Where runs are kept.", metavar="FOLDER")
    ] = OUTPUTS,
    every: Annotated[
        bool, typer.Option("--all", help="Show metrics that are equal in both, too.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Say what changed from one run to another: settings, data, libraries, metrics, answers."""
    from vlmpipe.evaluation.run_difference import compare_runs, find_run

    found = compare_runs(find_run(first, outputs_dir), find_run(second, outputs_dir))
    if as_json:
        print_json(found.as_json())
        return
    _print(found, Console(), every=every)


def _print(found: RunDifference, console: Console, *, every: bool) -> None:
    _line(console, f"first:  {found.folders[0]}")
    _line(console, f"second: {found.folders[1]}")
    for which, names in (("first", found.only_first), ("second", found.only_second)):
        if names:
            _line(console, f"only the {which} has published {', '.join(names)}")
    _changes(console, "settings", found.settings)
    _data(console, found.data)
    _changes(console, "libraries, device, commit", found.surroundings)
    for stage in found.metrics:
        _metrics(console, stage, every=every)
    if any(each.source == "validate" and each.sets_differ for each in found.answers.answers):
        _line(console, "validate's means are over different samples; pairs are over the same ones:")
    for answers in found.answers.answers:
        _answers(console, answers, every=every)
    for note in found.answers.notes:
        _line(console, note)
    if found.answers.answers:
        console.print(LEGEND, style="dim", highlight=False, soft_wrap=True)


def _changes(console: Console, title: str, changes: Sequence[Change]) -> None:
    if not changes:
        _line(console, f"{title}: the same")
        return
    table = _table(title, ("", "first", "second", "stages"))
    for change in changes:
        values = _shown(change.first), _shown(change.second)
        table.add_row(escape(change.name), *values, ", ".join(change.stages))
    console.print(table)


def _data(console: Console, data: DataDifference | None) -> None:
    if data is None:
        _line(console, "data: not compared, since a run has not published setup")
        return
    if data.base_model:
        _changes(console, "base model", data.base_model)
    for split in data.splits:
        _line(console, f"data, {split.split}: {split.sentence}")
        for which, ids in (("first", split.removed), ("second", split.added)):
            if ids:
                _line(console, f"  only in the {which}: {_some(ids)}")
    if data.moved:
        _line(
            console,
            f"trained on in one run and held out in the other: {_some(data.moved)};"
            " held-out figures of the two do not compare",
        )


def _metrics(console: Console, stage: StageMetrics, *, every: bool) -> None:
    title = f"{stage.stage} {stage.versions[0]} against {stage.versions[1]}"
    shown = [change for change in stage.metrics if every or not change.same]
    equal = len(stage.metrics) - len(shown)
    if not shown:
        _line(console, f"{title}: {equal} metrics, all equal")
        return
    table = _table(title, ("metric", "first", "second", "Δ"))
    for change in shown:
        delta = "" if change.difference is None else f"{change.difference:+.4g}"
        table.add_row(escape(change.name), _number(change.first), _number(change.second), delta)
    console.print(table)
    if equal:
        _line(console, f"  and {equal} that are equal (--all shows them)")


def _answers(console: Console, answers: AnswersDifference, *, every: bool) -> None:
    title = f"{answers.source}, {answers.engine}, {answers.split}"
    _line(
        console,
        f"{title}: {answers.sentence}; {answers.same_answers} answered word for word the same",
    )
    shown = {
        name: paired for name, paired in answers.metrics.items() if every or not _equal(paired)
    }
    if shown:
        table = _table("", ("metric", "samples", "Δ", "95 %", "p"))
        for name, paired in shown.items():
            table.add_row(escape(name), *_paired(paired))
        console.print(table)
    equal = len(answers.metrics) - len(shown)
    if equal:
        _line(console, f"  {equal} metrics are equal on every sample (--all shows them)")


def _equal(paired: Paired) -> bool:
    """Whether no sample differs."""
    interval = paired.interval
    spread = 0.0 if interval is None else max(abs(interval.low), abs(interval.high))
    return paired.difference == 0 and spread == 0


def _paired(paired: Paired) -> Iterable[str]:
    interval = paired.interval
    yield str(paired.samples)
    yield f"{paired.difference:+.4g}"
    yield "–" if interval is None else f"{interval.low:+.4g} to {interval.high:+.4g}"
    star = "*" if paired.significant else ""
    yield "–" if paired.p_value is None else f"{paired.p_value:.2g}{star}"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(
        title=escape(title) or None, title_justify="left", box=None, padding=(0, 1), pad_edge=False
    )
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place and "Δ" in columns else "left")
    return table


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    cut = text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
    return escape(cut)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _some(ids: Sequence[str]) -> str:
    hidden = len(ids) - LISTED
    return ", ".join(ids[:LISTED]) + (f" and {hidden} more" if hidden > 0 else "")


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
