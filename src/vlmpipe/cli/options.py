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
        metavar="KEY=VALUE",
    ),
]
Force = Annotated[
    list[str] | None,
    typer.Option(
        "--force",
        help="Run this stage again although it is cached; repeatable.",
        metavar="STAGE",
    ),
]
ForceThis = Annotated[
    bool, typer.Option("--force", help="Run the stage again although it is cached.")
]
Use = Annotated[
    list[str] | None,
    typer.Option(
        "--use",
        help="Take this published version, e.g. train=v002, and do not run its stage; repeatable.",
        metavar="STAGE=vNNN",
    ),
]
AllowFailedGate = Annotated[
    bool,
    typer.Option(
        "--allow-failed-gate",
        help="Let what a gate refuses pass, this once; recorded in the manifest.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and why; do nothing.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")
]
