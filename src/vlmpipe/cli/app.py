"""The `vlmpipe` program: its commands, and what becomes of errors."""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from vlmpipe import __version__
from vlmpipe.cli import config
from vlmpipe.cli.console import print_error
from vlmpipe.cli.execute import resuming_command
from vlmpipe.cli.run_all import run_all
from vlmpipe.cli.stage import SUMMARIES, stage_command
from vlmpipe.cli.status import status
from vlmpipe.errors import INTERRUPTED_EXIT_CODE, VlmpipeError

app = typer.Typer(
    name="vlmpipe",
    help="A Qwen vision-language model from QLoRA fine-tuning to a served endpoint, in stages.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("run-all")(run_all)
for name in SUMMARIES:
    app.command(name)(stage_command(name))
app.command()(status)
app.add_typer(config.app, name="config")


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """A Qwen vision-language model from QLoRA fine-tuning to a served endpoint, in stages."""
    if version:
        print(f"vlmpipe {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: expected errors become messages and exit codes, bugs crash."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except VlmpipeError as error:
        _report(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _report_interrupt()
        sys.exit(INTERRUPTED_EXIT_CODE)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _report(error: VlmpipeError) -> None:
    if "--json" in sys.argv:
        fault = {
            "kind": type(error).__name__,
            "exit_code": error.exit_code,
            "stage": error.stage,
            "message": error.message,
            "problems": list(error.problems),
            "remedies": list(error.remedies),
        }
        print(json.dumps({"error": fault}))
        return
    print_error(Console(stderr=True), error)


def _report_interrupt() -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": {"kind": "Interrupted", "exit_code": INTERRUPTED_EXIT_CODE}}))
        return
    console = Console(stderr=True)
    console.print("[bold yellow]interrupted[/]; what was published stays")
    console.print(f"  -> go on with: {resuming_command(sys.argv)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
