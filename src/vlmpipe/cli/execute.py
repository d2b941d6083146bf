"""Runs a part of the road for `run-all` and for the single-stage commands."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vlmpipe.cli.console import RichReporter
from vlmpipe.config import Config, load_config
from vlmpipe.errors import ConfigError
from vlmpipe.evaluation.report import write_report
from vlmpipe.pipeline import Runner, RunOptions, RunStore, StageResult
from vlmpipe.stages import STAGES
from vlmpipe.system.facts import git_commit, run_facts


@dataclass(frozen=True)
class Request:
    """What a run command was told."""

    files: Sequence[Path]
    overrides: Sequence[str]
    first: str | None = None
    last: str | None = None
    force: Sequence[str] = ()
    use: Sequence[str] = ()
    allow_failed_gate: bool = False
    dry_run: bool = False
    as_json: bool = False


def execute(request: Request) -> None:
    """Run, or with `--dry-run` only say what would run."""
    config = load_config(request.files, request.overrides)
    quieten_libraries()
    console = Console(stderr=request.as_json)
    store = RunStore(config.run.outputs_dir, config.run.name)
    options = RunOptions(
        first=request.first,
        last=request.last,
        force=frozenset(request.force),
        use=dict(_chosen_version(word) for word in request.use),
        allow_failed_gate=request.allow_failed_gate,
        command=resuming_command(sys.argv),
        argv=tuple(sys.argv),
        facts=run_facts(),
        git_commit=git_commit(),
    )
    runner = Runner(STAGES, config, store, RichReporter(console), options)
    if request.dry_run:
        _print_plan(runner, console, as_json=request.as_json)
        return
    results = runner.run()
    report = write_report(store.folder)
    _print_results(config, results, report, console, as_json=request.as_json)


def resuming_command(argv: Sequence[str]) -> str:
    """The same command without `--force`: what is published by then is cached."""
    words, kept = list(argv[1:]), ["vlmpipe"]
    while words:
        word = words.pop(0)
        if word == "--force":
            words[:1] = []
        elif not word.startswith("--force="):
            kept.append(word)
    return shlex.join(kept)


def quieten_libraries() -> None:
    """What libraries print belongs into the log; set before they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def _chosen_version(word: str) -> tuple[str, str]:
    stage, separator, version = word.partition("=")
    if not separator or not version:
        raise ConfigError(f"--use {word!r} is not STAGE=vNNN, e.g. --use train=v002")
    return stage, version


def _print_plan(runner: Runner, console: Console, *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {"stage": stage.name, "number": stage.number, "action": action, "why": list(why)}
        for stage, action, why in runner.plans()
    ]
    if as_json:
        print(json.dumps({"dry_run": True, "stages": rows}))
        return
    for row in rows:
        why = ", ".join(row["why"])
        console.print(f"{row['number']} {row['stage']:<9} {row['action']:<8} {why}", soft_wrap=True)


def _print_results(
    config: Config,
    results: Sequence[StageResult],
    report: Path,
    console: Console,
    *,
    as_json: bool,
) -> None:
    if as_json:
        stages = [_plain(result) for result in results]
        print(json.dumps({"run": config.run.name, "stages": stages, "report": str(report)}))
        return
    for result in results:
        for line in result.summary:
            console.print(f"  {result.stage}: {line}", highlight=False, markup=False, soft_wrap=True)
        if result.verdict is not None and not result.verdict.passed:
            for reason in result.verdict.reasons:
                console.print(
                    f"  {result.stage} gate ({result.verdict.mode}): {reason}",
                    style="yellow",
                    markup=False,
                    soft_wrap=True,
                )
    console.print(f"report: {report}", highlight=False, soft_wrap=True)


def _plain(result: StageResult) -> dict[str, Any]:
    row = asdict(result)
    row["verdict"] = result.verdict.model_dump() if result.verdict else None
    row["summary"] = list(result.summary)
    return row
