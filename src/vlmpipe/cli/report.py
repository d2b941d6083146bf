"""`vlmpipe report`: write a run's page anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmpipe.cli import options
from vlmpipe.cli.output import print_json, stdout_reserved
from vlmpipe.config import load_config
from vlmpipe.errors import ArtifactError
from vlmpipe.pipeline import RunStore


def report(
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="This run's folder, whatever its configuration.", metavar="DIR"),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write report.html of a run from what lies there now, and say where it is."""
    from vlmpipe.evaluation.published import published_stages
    from vlmpipe.evaluation.report import write_report

    folder = run or _folder_of(config, overrides)
    if not published_stages(folder):
        raise ArtifactError(
            f"{folder} is no run: no stage is published there",
            "name its folder: --run outputs/NAME",
            "or its configuration: -c FILE.yaml run.name=NAME",
        )
    with stdout_reserved(as_json):
        path = write_report(folder)
    if as_json:
        print_json({"run": folder.resolve().name, "report": str(path)})
    else:
        typer.echo(path)


def _folder_of(config: list[Path] | None, overrides: list[str] | None) -> Path:
    loaded = load_config(config or (), overrides or ())
    return RunStore(loaded.run.outputs_dir, loaded.run.name).folder
