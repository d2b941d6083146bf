"""What a run, or `--dry-run`, leaves on the screen."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vlmpipe.cli.output import print_json
from vlmpipe.config import Config
from vlmpipe.pipeline import Runner, StageResult
from vlmpipe.serving.example import example_of_run


def print_plan(runner: Runner, console: Console, *, as_json: bool) -> None:
    """Each stage with what it would do, and why."""
    rows: list[dict[str, Any]] = [
        {"stage": stage.name, "number": stage.number, "action": action, "why": list(why)}
        for stage, action, why in runner.plans()
    ]
    if as_json:
        print_json({"dry_run": True, "stages": rows})
        return
    for row in rows:
        why = escape(", ".join(row["why"]))
        line = f"{row['number']} {row['stage']:<9} {row['action']:<8} {why}"
        console.print(line, highlight=False, soft_wrap=True)


def print_results(
    config: Config,
    results: Sequence[StageResult],
    report: Path,
    console: Console,
    same_run: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """What each stage says of its result, the report, and how to serve what was deployed."""
    deployed = any(result.stage == "deploy" for result in results)
    serve = shlex.join(["vlmpipe", "serve", *same_run]) if deployed else None
    if as_json:
        stages = [asdict(result) | {"verdict": _plain_verdict(result)} for result in results]
        print_json(
            {"run": config.run.name, "stages": stages, "report": str(report), "serve": serve}
        )
        return
    for result in results:
        _print_result(result, console)
    console.print(f"report: {report}", highlight=False, markup=False, soft_wrap=True)
    if serve:
        console.print(f"serve:  {serve}", highlight=False, markup=False, soft_wrap=True)
        url = f"http://{config.deploy.host}:{config.deploy.port}"
        example = example_of_run(report.parent, url)
        if example:
            console.print(f"then:   {example}", highlight=False, markup=False, soft_wrap=True)


def _print_result(result: StageResult, console: Console) -> None:
    for line in result.summary:
        text = f"  {result.stage}: {line}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    verdict = result.verdict
    if verdict is None or verdict.passed or verdict.mode == "off":
        return
    for reason in verdict.reasons:
        text = f"  {result.stage} gate ({verdict.mode}): {reason}"
        console.print(text, style="yellow", markup=False, soft_wrap=True)


def _plain_verdict(result: StageResult) -> dict[str, Any] | None:
    return None if result.verdict is None else result.verdict.model_dump()
