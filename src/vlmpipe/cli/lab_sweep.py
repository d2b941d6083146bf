"""`vlmpipe lab sweep`: settings crossed with settings, each trial a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlmpipe.cli import options
from vlmpipe.cli.output import print_json, stdout_reserved
from vlmpipe.errors import InterruptError, StageError

if TYPE_CHECKING:
    from vlmpipe.training.lab.sweep_file import Sweep
    from vlmpipe.training.lab.sweep_files import SweepResult
    from vlmpipe.training.lab.sweep_noise import SettingMean
    from vlmpipe.training.lab.sweep_rows import TrialRow

PLAIN: dict[str, Any] = {
    "title_justify": "left",
    "box": None,
    "padding": (0, 1),
    "pad_edge": False,
}
"""Frames would leave no room for settings on a narrow terminal."""


def sweep(
    file: Annotated[
        Path, typer.Argument(help="Such as configs/sweeps/lora.yaml.", metavar="FILE.yaml")
    ],
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the trials; do nothing.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Train and validate every combination of a grid, and put them into one table.

    Started again, it goes on where it was. Exit code 5: some trials failed.
    """
    from vlmpipe.training.lab.sweep_file import read_sweep  # the tasks would slow `--help`

    asked = read_sweep(file, config or (), overrides or ())
    command = [word for path in config or () for word in ("-c", str(path))] + list(overrides or ())
    if dry_run:
        _print_trials(asked, as_json=as_json)
        return
    console = Console(stderr=as_json)
    with stdout_reserved(as_json):
        found = _run(asked, command, console)
    failed = [row for row in found.rows if row.error is not None]
    if as_json:
        print_json(found.as_json())
    else:
        _print(found, Console())
    if failed:
        raise typer.Exit(StageError.exit_code)


def _run(asked: Sweep, command: Sequence[str], console: Console) -> SweepResult:
    from vlmpipe.cli.console import RichReporter
    from vlmpipe.cli.execute import quieten_libraries
    from vlmpipe.cli.lab_opening import LAB_FOLDER
    from vlmpipe.cli.lab_opening import command as typed
    from vlmpipe.pipeline import RunStore
    from vlmpipe.pipeline.lock import run_lock
    from vlmpipe.stages import STAGES
    from vlmpipe.training.lab.sweep import run_trials
    from vlmpipe.training.lab.sweep_files import write_sweep
    from vlmpipe.training.lab.sweep_refusal import refuse_hopeless

    quieten_libraries()
    refuse_hopeless(asked.trials)
    home = RunStore(asked.trials[0].config.run.outputs_dir, asked.home)
    folder = home.folder / LAB_FOLDER / "sweep" / asked.name
    stages = {stage.name: stage for stage in STAGES}
    rows: list[TrialRow] = []
    try:
        with run_lock(home.folder, typed()):
            logs = folder / "logs"
            for row in run_trials(asked, command, stages, home, logs, RichReporter(console)):
                rows.append(row)
                _line(console, f"  {_told(row, asked.metric)}")
                write_sweep(asked, rows, folder)
    except KeyboardInterrupt as exc:
        raise InterruptError(
            f"interrupted after {len(rows)} of {len(asked.trials)} trials; what they made stays"
            + (f", and {folder / 'trials.csv'} has their figures" if rows else ""),
            f"go on with: {typed()}",
        ) from exc
    return write_sweep(asked, rows, folder)


def _print_trials(asked: Sweep, *, as_json: bool) -> None:
    from vlmpipe.training.lab.sweep_rows import label_of

    if as_json:
        trials: list[dict[str, Any]] = [
            {
                "number": trial.number,
                "run": trial.name,
                "settings": dict(trial.settings),
                "seed": trial.seed,
            }
            for trial in asked.trials
        ]
        print_json({"dry_run": True, "metric": asked.metric, "trials": trials})
        return
    console = Console()
    for trial in asked.trials:
        seed = "" if trial.seed is None else f" seed={trial.seed}"
        _line(console, f"{trial.number:>3} {label_of(trial.settings)}{seed}  {trial.name}")
    _line(console, f"{len(asked.trials)} trials, sorted afterwards by {asked.metric}")


def _print(found: SweepResult, console: Console) -> None:
    console.print(_table(found))
    for row in found.rows:
        if row.error is not None:
            _line(console, f"trial {row.number} ({row.label}): {row.error}")
    if found.settings:
        console.print(_seed_table(found.settings))
        for line in _noise_lines(found.settings):
            _line(console, line)
    elif len(found.rows) > 1:
        _line(
            console,
            "one seed a trial: intervals are over validate's samples, and what another seed would"
            " change is not known (seeds: [1, 2, 3] in the file)",
        )
    _line(console, f"written: {found.folder}")


def _table(found: SweepResult) -> Table:
    table = Table(title=escape(f"{found.sweep.name}, by {found.sweep.metric}"), **PLAIN)
    columns = ("trial", "settings", "seed", "metric", "95 %", "loss", "trained", "time", "step")
    for name in columns:
        table.add_column(name, justify="left" if name == "settings" else "right")
    for row in found.rows:
        low_high = "" if row.interval is None else "{:.3g}–{:.3g}".format(*row.interval)
        table.add_row(
            str(row.number),
            escape(row.label),
            _or_dash(row.seed, "d"),
            "failed" if row.metric is None else f"{row.metric:.4g}",
            low_high or "–",
            _or_dash(row.loss, ".3g"),
            _or_dash(row.trained_parameters, ",d"),
            _or_dash(row.seconds, ".0f", " s"),
            _or_dash(row.step_gib, ".2f", " GiB"),
        )
    return table


def _seed_table(settings: Sequence[SettingMean]) -> Table:
    table = Table(title="over seeds", **PLAIN)
    for name in ("settings", "seeds", "mean", "spread", "from the best", "95 %", ""):
        table.add_column(name, justify="left" if name in ("settings", "") else "right")
    said = {True: "within noise", False: "worse", None: ""}
    for each in settings:
        table.add_row(
            escape(each.label),
            str(each.seeds),
            f"{each.mean:.4g}",
            _or_dash(each.spread, ".2g"),
            _or_dash(each.difference, "+.3g"),
            "–" if each.interval is None else "{:+.3g} to {:+.3g}".format(*each.interval),
            said[each.within_noise],
        )
    return table


def _noise_lines(settings: Sequence[SettingMean]) -> list[str]:
    best, *others = settings
    alike = [each.label for each in others if each.within_noise]
    unknown = [each.label for each in others if each.within_noise is None]
    lines = [f"best on average: {best.label}"]
    if alike:
        lines.append(f"not told apart from it by {best.seeds} seeds: {'; '.join(alike)}")
    if unknown:
        lines.append(f"fewer than two seeds in common with it: {'; '.join(unknown)}")
    return lines


def _told(row: TrialRow, metric: str) -> str:
    seed = "" if row.seed is None else f" seed={row.seed}"
    if row.metric is None:
        return f"{row.label}{seed}: {row.error}"
    return f"{row.label}{seed}: {metric} {row.metric:.4g}"


def _or_dash(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
