"""`vlmpipe run-all`: every stage, from the machine to the served endpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from vlmpipe.cli import options
from vlmpipe.cli.launch import AccelerateConfig, NumProcesses, execute_in_processes
from vlmpipe.cli.request import Request


def run_all(
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    first: Annotated[
        str | None, typer.Option("--from", help="First stage to run.", metavar="STAGE")
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", help="Last stage to run.", metavar="STAGE")
    ] = None,
    force: options.Force = None,
    use: options.Use = None,
    allow_failed_gate: options.AllowFailedGate = False,
    num_processes: NumProcesses = None,
    accelerate_config: AccelerateConfig = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Run the whole road: check, setup, train, validate, merge, convert, deploy."""
    request = Request(
        files=config or (),
        overrides=overrides or (),
        first=first,
        last=last,
        force=force or (),
        use=use or (),
        allow_failed_gate=allow_failed_gate,
        dry_run=dry_run,
        as_json=as_json,
    )
    execute_in_processes(request, num_processes, accelerate_config)
