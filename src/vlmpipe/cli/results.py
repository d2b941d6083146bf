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

REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
"""An address that listens everywhere, as a client on this machine writes it."""


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
    _print_line(console, f"report: {report}")
    if serve:
        _print_line(console, f"serve:  {serve}")
        example = _example(config, report.parent)
        if example:
            _print_line(console, f"then:   {example}")


def _example(config: Config, run_folder: Path) -> str | None:
    """One request to the service; None where its port is chosen only when it starts."""
    host, port = config.deploy.host, config.deploy.port
    url = f"http://{REACHED_AT.get(host, host)}:{port}"
    return example_of_run(run_folder, url) if port else None


def _print_line(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _print_result(result: StageResult, console: Console) -> None:
    for line in result.summary:
        _print_line(console, f"  {result.stage}: {line}")
    verdict = result.verdict
    if verdict is None or verdict.passed or verdict.mode == "off":
        return
    for reason in verdict.reasons:
        _print_line(console, f"  {result.stage} gate ({verdict.mode}): {reason}", "yellow")


def _plain_verdict(result: StageResult) -> dict[str, Any] | None:
    return None if result.verdict is None else result.verdict.model_dump()
