"""What a lab command works on: the run's setup output, made where it is not current."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from vlmpipe.cli.console import RichReporter
from vlmpipe.cli.execute import quieten_libraries, run_options
from vlmpipe.cli.request import Request
from vlmpipe.config import Config
from vlmpipe.errors import InterruptError
from vlmpipe.pipeline import Runner, RunStore
from vlmpipe.pipeline.lock import run_lock

if TYPE_CHECKING:
    from vlmpipe.models.base import BaseModelFolder
    from vlmpipe.training.preparation import TrainingData

LAB_FOLDER = "lab"
Found = TypeVar("Found")


def in_lab(
    config: Config,
    console: Console,
    work: Callable[[BaseModelFolder, TrainingData, Path, RichReporter], Found],
) -> Found:
    """Run setup where it is not current, then `work` on its output, under the run's lock.

    `work` is given the base model, the data, the run's lab folder, and whom to tell.
    """
    quieten_libraries()
    reporter = RichReporter(console)
    store = RunStore(config.run.outputs_dir, config.run.name)
    try:
        setup = run_setup(config, store, reporter)
        base, data = _opened(setup)
        with run_lock(store.folder, command()):
            return work(base, data, store.folder / LAB_FOLDER, reporter)
    except KeyboardInterrupt as exc:
        raise InterruptError(
            "interrupted; nothing was published", f"begin again: {command()}"
        ) from exc
    finally:
        reporter.progress_done()


def run_setup(config: Config, store: RunStore, reporter: RichReporter) -> Path:
    """The setup stage through the runner, cached where it is current; its folder."""
    from vlmpipe.stages import STAGES

    request = Request(files=(), overrides=(), first="setup", last="setup")
    runner = Runner(STAGES, config, store, reporter, run_options(request, sys.argv))
    (result,) = runner.run()
    stage = next(stage for stage in STAGES if stage.name == "setup")
    folder: Path = store.version(stage, result.version).folder
    return folder


def command() -> str:
    """As it was typed."""
    import shlex

    return shlex.join(["vlmpipe", *sys.argv[1:]])


def _opened(setup: Path) -> tuple[BaseModelFolder, TrainingData]:
    from vlmpipe.models.base import read_base
    from vlmpipe.training.preparation import training_data

    return read_base(setup), replace(training_data(setup), heldout=())
