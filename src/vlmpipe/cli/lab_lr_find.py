"""`vlmpipe lab lr-find`: a learning-rate range test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vlmpipe.cli import options
from vlmpipe.cli.output import print_json, stdout_reserved
from vlmpipe.config import load_config
from vlmpipe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from vlmpipe.cli.console import RichReporter
    from vlmpipe.models.base import BaseModelFolder
    from vlmpipe.training.lab.lr_find import LrFind
    from vlmpipe.training.preparation import TrainingData

LEAST_STEPS = 10


def lr_find(
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    start: Annotated[float, typer.Option("--from", help="First rate.", min=1e-12)] = 1e-6,
    stop: Annotated[float, typer.Option("--to", help="Last rate.", min=1e-12)] = 1.0,
    steps: Annotated[
        int,
        typer.Option(
            help="Steps, in equal ratios of the rate; the more, the lower the rate found.",
            min=LEAST_STEPS,
        ),
    ] = 60,
    as_json: options.AsJson = False,
) -> None:
    """Raise the learning rate from step to step over the first phase's batches; read one off.

    Curve and picture go into outputs/RUN/lab/lr_find. Nothing is published.
    """
    from vlmpipe.cli.lab_opening import in_lab  # the stages would slow `--help`

    if start >= stop:
        raise ConfigError(f"--from {start:g} is not below --to {stop:g}", _way_out(start, stop))
    loaded = load_config(config or (), overrides or ())

    def work(
        base: BaseModelFolder, data: TrainingData, lab: Path, reporter: RichReporter
    ) -> LrFind:
        from vlmpipe.training.lab.lr_find import FOLDER_NAME, Ramp, find_learning_rate

        ramp = Ramp(start, stop, steps)
        return find_learning_rate(loaded, base, data, ramp, lab / FOLDER_NAME, reporter)

    with stdout_reserved(as_json):
        found = in_lab(loaded, Console(stderr=as_json), work)
    if as_json:
        print_json(found.as_json())
    else:
        _print(found, Console())


def _way_out(start: float, stop: float) -> str:
    if start > stop:
        return f"swap them: --from {stop:g} --to {start:g}"
    return "leave both out: --from 1e-6 --to 1"


def _print(found: LrFind, console: Console) -> None:
    suggestion, taken = found.suggestion, len(found.rates)
    ended = f"; it diverged at step {taken + 1}" if taken < found.asked else ""
    _line(console, f"phase {found.phase}: {taken} of {found.asked} steps{ended}")
    if found.setting is None:
        console.print("[yellow]no learning rate can be read off:[/]", highlight=False)
        _line(console, f"  {suggestion.reason}")
    else:
        console.print(f"[bold green]{found.setting}[/]", highlight=False)
        _line(console, f"  {suggestion.reason}")
        _line(
            console,
            f"  more careful, where the fall begins: {suggestion.onset:.1e};"
            f" lowest loss, too high to train with: {suggestion.minimum:.1e}"
            + (
                f" (rates of the phase, {found.scale:g} times train.learning_rate)"
                if found.scale != 1
                else ""
            ),
        )
        _line(console, f"  {found.dependence}")
    _line(console, f"curve: {found.csv}" + (f", {found.png}" if found.png else ""))


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
