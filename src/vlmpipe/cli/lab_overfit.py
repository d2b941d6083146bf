"""`vlmpipe lab overfit`: a few samples learned by heart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from vlmpipe.cli import options
from vlmpipe.cli.output import print_json, stdout_reserved
from vlmpipe.config import load_config
from vlmpipe.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path

    from vlmpipe.cli.console import RichReporter
    from vlmpipe.models.base import BaseModelFolder
    from vlmpipe.training.lab.overfit import Overfit, Recital
    from vlmpipe.training.preparation import TrainingData

SHOWN_CHARACTERS = 160


def overfit(
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    samples: Annotated[int, typer.Option(help="Training samples to learn.", min=1)] = 4,
    steps: Annotated[int, typer.Option(help="Optimiser steps at most.", min=1)] = 200,
    limit: Annotated[
        float, typer.Option(help="Mean loss to reach, nats a supervised token.", min=1e-6)
    ] = 0.02,
    as_json: options.AsJson = False,
) -> None:
    """Train a few samples until the model recites them; exit 5 and say why where it does not.

    Every training that works can do this within minutes. Nothing is published.
    """
    from vlmpipe.cli.lab_opening import in_lab  # the stages would slow `--help`

    loaded = load_config(config or (), overrides or ())

    def work(
        base: BaseModelFolder, data: TrainingData, lab: Path, reporter: RichReporter
    ) -> Overfit:
        from vlmpipe.training.lab.overfit import FOLDER_NAME, Heart
        from vlmpipe.training.lab.overfit import overfit as learn

        asked = Heart(samples, steps, limit)
        return learn(loaded, base, data, asked, lab / FOLDER_NAME, reporter)

    with stdout_reserved(as_json):
        found = in_lab(loaded, Console(stderr=as_json), work)
    if as_json:
        print_json(found.as_json())
    else:
        _print(found, Console())
    if not found.passed:
        raise typer.Exit(StageError.exit_code)


def _print(found: Overfit, console: Console) -> None:
    _line(
        console,
        f"loss {found.loss_before:.4g} -> {found.loss:.4g} nats a token in {len(found.steps)} steps"
        f" (limit {found.asked.limit:g}), over {_taken(found)}",
    )
    if found.blank_loss is not None:
        _line(console, f"with white images in the place of its own: {found.blank_loss:.4g}")
    for each in found.recitals:
        _print_answer(each, console)
    if found.passed:
        console.print("[green]passed:[/] every sample is known by heart", highlight=False)
        return
    console.print("[bold red]failed[/]", highlight=False)
    for finding in found.findings:
        console.print(f"[bold]{escape(finding.cause)}[/]", highlight=False, soft_wrap=True)
        _line(console, f"  {finding.evidence}")
        for remedy in finding.remedies:
            console.print(f"  [cyan]->[/] {escape(remedy)}", highlight=False, soft_wrap=True)


def _taken(found: Overfit) -> str:
    taken, asked = len(found.recitals), found.asked.samples
    if taken < asked:
        return f"all {taken} training samples: --samples {asked} asks for more than there are"
    return f"{taken} of {found.available} training samples"


def _print_answer(each: Recital, console: Console) -> None:
    if each.same:
        _line(console, f"  {each.id}: recited, {_cut(each.answer)}")
        return
    _line(console, f"  {each.id}: answered {_cut(each.answer)}")
    _line(console, f"  {' ' * len(each.id)}  reference {_cut(each.reference)}")


def _cut(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…")


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
