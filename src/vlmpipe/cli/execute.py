"""Runs a part of the road for `run-all` and for the single-stage commands."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Sequence
from functools import partial

from rich.console import Console

from vlmpipe.cli.console import RichReporter
from vlmpipe.cli.output import stdout_reserved
from vlmpipe.cli.request import Request
from vlmpipe.cli.results import print_plan, print_results
from vlmpipe.config import load_config
from vlmpipe.errors import ConfigError, GateError, InterruptError
from vlmpipe.evaluation.report import write_report
from vlmpipe.models.quiet import quieten_known
from vlmpipe.pipeline import Runner, RunOptions, RunStore, StageResult
from vlmpipe.pipeline.failures import notes_of
from vlmpipe.stages import STAGES
from vlmpipe.system.facts import git_commit, run_facts


def execute(request: Request) -> None:
    """Run, or with `--dry-run` only say what would run."""
    config = load_config(request.files, request.overrides)
    quieten_libraries()
    console = Console(stderr=request.as_json)
    store = RunStore(config.run.outputs_dir, config.run.name)
    reporter = RichReporter(console)
    runner = Runner(STAGES, config, store, reporter, run_options(request, sys.argv))
    if request.dry_run:
        print_plan(runner, console, as_json=request.as_json)
        return
    with stdout_reserved(request.as_json):
        results = _run(runner, reporter)
        report = write_report(store.folder, cached={r.stage for r in results if r.cached})
    print_results(config, results, report, console, same_run(request), as_json=request.as_json)


def run_options(request: Request, argv: Sequence[str]) -> RunOptions:
    """The request as the runner knows it, with what is recorded of this invocation."""
    return RunOptions(
        first=request.first,
        last=request.last,
        force=frozenset(request.force),
        use=dict(_chosen_version(word) for word in request.use),
        allow_failed_gate=request.allow_failed_gate,
        command=shlex.join(["vlmpipe", *argv[1:]]),
        resume=partial(resuming_command, argv),
        argv=tuple(argv),
        facts=run_facts(),
        git_commit=git_commit(),
    )


def resuming_command(argv: Sequence[str], still_to_force: Collection[str] = ()) -> str:
    """The same command, with `--force` for the stages alone that were not made again yet."""
    command, words = argv[1:2], list(argv[2:])
    kept = ["vlmpipe", *command]
    while words:
        word = words.pop(0)
        if word != "--force" and not word.startswith("--force="):
            kept.append(word)
            continue
        stage = _forced_stage(word, command, words)
        if stage in still_to_force:
            kept += ["--force"] if [stage] == command else ["--force", stage]
    return shlex.join(kept)


def _forced_stage(word: str, command: Sequence[str], following: list[str]) -> str:
    """`run-all` names the stage after the flag or its `=`; a stage's own command means itself."""
    if "=" in word:
        return word.partition("=")[2]
    if list(command) != ["run-all"]:
        return command[0]
    return following.pop(0) if following else ""


def same_run(request: Request) -> list[str]:
    """The words that make another command mean the same run."""
    files = [word for file in request.files for word in ("-c", str(file))]
    return [*files, *request.overrides]


def quieten_libraries() -> None:
    """What libraries print belongs into the log; set before they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    quieten_known()


def _run(runner: Runner, reporter: RichReporter) -> list[StageResult]:
    try:
        return runner.run()
    except GateError as error:
        report = write_report(runner.store.folder)
        error.remedies = (f"see what was measured: {report}", *error.remedies)
        raise
    except KeyboardInterrupt as exc:
        raise InterruptError(
            "interrupted; what was published stays",
            *notes_of(exc),
            f"go on with: {runner.resuming_command()}",
        ) from exc
    finally:
        reporter.progress_done()


def _chosen_version(word: str) -> tuple[str, str]:
    stage, separator, version = word.partition("=")
    if not separator or not version:
        raise ConfigError(
            f"--use {word!r} is not STAGE=vNNN",
            "name a published version, e.g. --use train=v002; `vlmpipe status` names the latest",
        )
    return stage, version
