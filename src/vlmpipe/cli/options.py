"""Options and arguments that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option("-c", "--config", help="YAML file; repeatable, later ones win.", metavar="FILE"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Settings such as train.max_steps=20; a list or map is given as JSON.",
        metavar="[KEY=VALUE]...",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and why; do nothing.")]
Force = Annotated[
    list[str] | None,
    typer.Option("--force", help="Run this stage again; repeatable.", metavar="STAGE"),
]
Use = Annotated[
    list[str] | None,
    typer.Option(
        "--use", help="Take this published version, e.g. train=v002.", metavar="STAGE=vNNN"
    ),
]
AllowFailedGate = Annotated[
    bool,
    typer.Option("--allow-failed-gate", help="Let what a gate refuses pass, this once; recorded."),
]
FORCE_THIS = typer.Option(False, "--force", help="Run the stage again although it is cached.")
