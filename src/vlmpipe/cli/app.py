"""The `vlmpipe` program: its commands, and what becomes of errors."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from vlmpipe import __version__
from vlmpipe.cli import audit, config, data, gguf, lab, review
from vlmpipe.cli.compare import compare
from vlmpipe.cli.console import print_error
from vlmpipe.cli.evaluate import evaluate
from vlmpipe.cli.judge import judge
from vlmpipe.cli.output import error_as_json, print_json
from vlmpipe.cli.prepare_image import prepare_image
from vlmpipe.cli.report import report
from vlmpipe.cli.run_all import run_all
from vlmpipe.cli.serve import serve
from vlmpipe.cli.stage import SUMMARIES, stage_command
from vlmpipe.cli.status import status
from vlmpipe.cli.train import train
from vlmpipe.errors import ConfigError, InterruptError, StageError, VlmpipeError
from vlmpipe.pipeline.failures import is_disk_full

app = typer.Typer(
    name="vlmpipe",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("run-all")(run_all)
for _name in SUMMARIES:
    app.command(_name)(train if _name == "train" else stage_command(_name))
app.command()(evaluate)
app.command()(judge)
app.command()(report)
app.command()(serve)
app.command()(status)
app.command()(compare)
app.command("prepare-image")(prepare_image)
app.add_typer(audit.app, name="audit")
app.add_typer(lab.app, name="lab")
app.add_typer(review.app, name="review")
app.add_typer(gguf.app, name="gguf")
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """A Qwen vision-language model from QLoRA fine-tuning to a served endpoint, in stages.

    Begin with: vlmpipe run-all -c configs/tiny.yaml
    """
    if version:
        typer.echo(f"vlmpipe {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the program."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run one command line: expected errors become messages and exit codes, bugs crash."""
    as_json = "--json" in argv
    try:
        code = app(args=list(argv) or ["--help"], prog_name="vlmpipe", standalone_mode=False)
    except VlmpipeError as error:
        return _report(error, as_json)
    except typer.TyperException as error:
        return _report(_usage(error), as_json)
    except OSError as exc:
        if not is_disk_full(exc):
            raise
        return _report(StageError(f"no space left on the disk: {exc}", "free some space"), as_json)
    except Exception as exc:
        if as_json:
            bug = {"kind": type(exc).__name__, "exit_code": 1, "message": str(exc)}
            print_json({"error": bug})
        raise
    # typer makes an exit code of an interrupt outside of a run.
    if code == InterruptError.exit_code:
        return _report(InterruptError("interrupted"), as_json)
    return int(code or 0)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _usage(error: typer.TyperException) -> ConfigError:
    return ConfigError(
        error.format_message(),
        "`vlmpipe --help` lists the commands, `vlmpipe COMMAND --help` what each takes",
    )


def _report(error: VlmpipeError, as_json: bool) -> int:
    if as_json:
        print_json(error_as_json(error))
    else:
        print_error(Console(stderr=True), error)
    return error.exit_code


if __name__ == "__main__":
    main()
