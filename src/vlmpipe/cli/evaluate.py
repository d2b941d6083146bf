"""`vlmpipe evaluate`: the same samples through every engine, side by side."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vlmpipe.cli import options
from vlmpipe.cli.console import RichReporter
from vlmpipe.cli.execute import quieten_libraries
from vlmpipe.cli.output import error_as_json, print_json, stdout_reserved
from vlmpipe.cli.standings import print_standings
from vlmpipe.config import Config, load_config
from vlmpipe.errors import ConfigError, InterruptError, StageError
from vlmpipe.pipeline.lock import run_lock

if TYPE_CHECKING:
    from vlmpipe.evaluation.side_by_side.every import Evaluation
    from vlmpipe.evaluation.side_by_side.run import Setting
    from vlmpipe.evaluation.systems import Asking, Systems

ALL = "all"
RESIZES = ("contract", "runtime")


def evaluate(
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    engines: Annotated[
        str,
        typer.Option(
            help="Comma-separated: hf:base, hf:adapter, hf:merged, llama_cpp:QUANT,"
            " openai:URL[#MODEL], ollama:MODEL; 'all' is what the run published.",
            metavar="LIST",
        ),
    ] = ALL,
    data: Annotated[
        str,
        typer.Option(help="heldout, train, or a JSONL file of messages.", metavar="DATA"),
    ] = "heldout",
    against: Annotated[
        str | None,
        typer.Option(
            help="Engine that the others are held against; unset: hf:adapter, or the first.",
            metavar="ENGINE",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first so many samples.", min=1)
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="An answer is cut here; unset: validate.max_new_tokens.", min=1),
    ] = None,
    reliance: Annotated[
        int,
        typer.Option(
            help="Samples asked again with a blank and with another's image; 0: none.", min=0
        ),
    ] = 4,
    score: Annotated[
        bool,
        typer.Option("--score/--no-score", help="Teacher-force references where engines can."),
    ] = True,
    batch_size: Annotated[
        int, typer.Option(help="Conversations that hf engines generate for at once.", min=1)
    ] = 1,
    concurrency: Annotated[
        int, typer.Option(help="Requests that a server is sent at once.", min=1)
    ] = 4,
    timeout: Annotated[
        float, typer.Option(help="Seconds for one answer; then its sample has failed.", min=1)
    ] = 600.0,
    resize: Annotated[
        str,
        typer.Option(
            help="Who resizes images sent to servers: contract (here, exactly) or runtime (they).",
            metavar="contract|runtime",
        ),
    ] = "contract",
    api_key_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable with the servers' key; unset: none is sent.", metavar="NAME"
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Run the same samples through every engine; answers go into outputs/RUN/predictions.

    What was answered already is not asked again. Exit code 5: some samples or engines failed.
    """
    from vlmpipe.evaluation.systems import Asking

    loaded = load_config(config or (), overrides or ())
    if resize not in RESIZES:
        raise ConfigError(
            f"--resize {resize!r} is neither", "choose one: --resize contract|runtime"
        )
    asked = _Asked(
        config=loaded,
        engines=engines,
        data=data,
        against=against,
        limit=limit,
        max_new_tokens=max_new_tokens or loaded.validation.max_new_tokens,
        reliance=reliance,
        scored=score,
        asking=Asking(
            concurrency=concurrency,
            timeout_s=timeout,
            api_key_env=api_key_env,
            resize="runtime" if resize == "runtime" else "contract",
            batch_size=batch_size,
        ),
    )
    quieten_libraries()
    console = Console(stderr=as_json)
    with stdout_reserved(as_json):
        found, report = _run(asked, console)
    error = None if found.complete else _incomplete(found)
    if as_json:
        _print_json(asked, found, report, error)
    else:
        print_standings(found, report, console)
    if error and as_json:
        raise typer.Exit(error.exit_code)
    if error:
        raise error


@dataclass(frozen=True)
class _Asked:
    """What the command was told."""

    config: Config
    engines: str
    data: str
    against: str | None
    limit: int | None
    max_new_tokens: int
    reliance: int
    scored: bool
    asking: Asking

    @property
    def run_folder(self) -> Path:
        """Where the run's stages are."""
        return self.config.run.outputs_dir / self.config.run.name


def _run(asked: _Asked, console: Console) -> tuple[Evaluation, Path]:
    from vlmpipe.evaluation.report import write_report
    from vlmpipe.evaluation.side_by_side.every import evaluate as ask_all
    from vlmpipe.evaluation.systems import Systems

    if not asked.run_folder.is_dir():
        raise _no_run(asked.config)
    systems = Systems(asked.config, asked.run_folder, asked.asking)
    orders = systems.orders(_names(asked.engines, systems))
    _refuse_absent(asked.against, [order.name for order in orders])
    setting = _setting(asked, systems)
    reporter = RichReporter(console)
    for line in systems.departures():
        console.print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{setting.source.count} samples of {setting.source.name}, "
        + ", ".join(order.name for order in orders),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    try:
        with run_lock(asked.run_folder, _command()):
            found = ask_all(orders, setting, reporter, against=asked.against)
            return found, write_report(asked.run_folder)
    except KeyboardInterrupt as exc:
        raise InterruptError(
            "interrupted; what was answered stays", f"go on with: {_command()}"
        ) from exc
    finally:
        reporter.progress_done()


def _setting(asked: _Asked, systems: Systems) -> Setting:
    from vlmpipe.evaluation.records import PREDICTIONS_FOLDER
    from vlmpipe.evaluation.side_by_side.child import Plan
    from vlmpipe.evaluation.side_by_side.run import Setting
    from vlmpipe.evaluation.sources import open_source

    return Setting(
        source=open_source(asked.config, asked.data, systems.setup_folder(), asked.limit),
        plan=Plan(asked.max_new_tokens, asked.scored, asked.reliance),
        folder=asked.run_folder / PREDICTIONS_FOLDER,
        log=asked.run_folder / "logs" / "evaluate.log",
        seed=asked.config.run.seed,
        timeout_s=asked.asking.timeout_s,
        whole=asked.limit is None,
    )


def _names(engines: str, systems: Systems) -> list[str]:
    if engines == ALL:
        return systems.offered()
    return [name.strip() for name in engines.split(",") if name.strip()]


def _refuse_absent(against: str | None, names: Sequence[str]) -> None:
    if against is not None and against not in names:
        raise ConfigError(
            f"--against {against} is not among the engines asked: {', '.join(names)}",
            f"ask it too: --engines {','.join([against, *names])}",
        )


def _no_run(config: Config) -> ConfigError:
    outputs, name = config.run.outputs_dir, config.run.name
    there = [path.name for path in outputs.glob("*/") if path.is_dir()] if outputs.is_dir() else []
    close = difflib.get_close_matches(name, there, n=3)
    hint = f"; did you mean run.name={close[0]}?" if close else ""
    return ConfigError(
        f"there is no run {name!r} in {outputs}{hint}",
        "name the one to evaluate: run.name=NAME, or -c FILE of its configuration",
        "or make it: `vlmpipe run-all` with the same options",
    )


def _command() -> str:
    return shlex.join(["vlmpipe", *sys.argv[1:]])


def _problems(found: Evaluation) -> list[str]:
    refused = [f"not opened: {error.message}" for error in found.refused.values()]
    given_up = [f"{p.engine} was given up: {p.given_up}" for p in found.passes if p.given_up]
    failed = [
        f"{p.engine}: {p.failed} samples failed, the first: {p.first_error}"
        for p in found.passes
        if p.failed
    ]
    return [*refused, *given_up, *failed]


def _incomplete(found: Evaluation) -> StageError:
    return StageError(
        "not every sample was answered by every engine",
        f"what failed is asked again by the same command: {_command()}",
        problems=_problems(found),
    )


def _print_json(asked: _Asked, found: Evaluation, report: Path, error: StageError | None) -> None:
    """The figures there are, and beside them what is missing."""
    figures = {
        "run": asked.config.run.name,
        "against": found.against,
        "engines": [asdict(each) for each in found.standings],
        "report": str(report),
    }
    print_json(figures | (error_as_json(error) if error else {}))
