"""Trials one after the other, each an ordinary run in a process of its own."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vlmpipe.errors import ToolError
from vlmpipe.pipeline import RunStore, Stage
from vlmpipe.pipeline.events import Reporter
from vlmpipe.pipeline.fingerprint import HashIndex
from vlmpipe.pipeline.plan import plan_stage
from vlmpipe.system.process import run_program
from vlmpipe.training.lab.sweep_file import Sweep, Trial
from vlmpipe.training.lab.sweep_rows import TrialRow, failed_row, finished_row

LAST_STAGE = "validate"
Stages = Mapping[str, Stage]
"""By name."""


def run_trials(
    sweep: Sweep,
    command: Sequence[str],
    stages: Stages,
    home: RunStore,
    logs: Path,
    reporter: Reporter,
) -> Iterator[TrialRow]:
    """Run every trial; one that fails becomes a row with its error, and the next one begins.

    `command` are the words that make the configuration: `-c FILE` and settings. What a trial has
    published already is taken from its cache. `home` is the store of the run that the sweep is of.
    """
    stores = [home]
    for trial in sweep.trials:
        store = RunStore(trial.config.run.outputs_dir, trial.name)
        _share_setup(trial, store, stores, stages["setup"])
        reporter.note(f"trial {trial.number} of {len(sweep.trials)}: {trial.name}")
        try:
            run_program(
                trial_argv(command, trial),
                what=f"trial {trial.number}",
                log=logs / f"{trial.name}.log",
            )
            row = finished_row(trial, store, stages, sweep.metric)
        except ToolError as exc:
            row = failed_row(trial, exc, logs / f"{trial.name}.log")
        stores.append(store)
        yield row


def trial_argv(command: Sequence[str], trial: Trial) -> list[str]:
    """The program and its words for one trial."""
    road = ["run-all", "--to", LAST_STAGE]
    return [sys.executable, "-m", "vlmpipe", *road, *command, *trial.words]


def _share_setup(trial: Trial, store: RunStore, others: Sequence[RunStore], setup: Stage) -> None:
    """Give a trial the setup that another run has published under the very same fingerprint.

    The trial's runner takes it for a cached version, and verifies its files as it would its own.
    """
    plan = plan_stage(setup, trial.config, store, {}, HashIndex(store.folder / ".hashes.json"))
    if plan.hit is not None or store.latest(setup) is not None:
        return
    donors = (other.with_fingerprint(setup, plan.fingerprint) for other in others)
    donor = next((version for version in donors if version is not None), None)
    if donor is None:
        return
    target = store.stage_folder(setup) / donor.name
    aside = target.with_name(f".{donor.name}.tmp{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(donor.folder, aside, copy_function=_link, symlinks=True)
    aside.rename(target)
    store.point_latest(setup, donor.name)


def _link(source: str, target: str) -> None:
    """Published files are never changed: another name for one takes no space."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
