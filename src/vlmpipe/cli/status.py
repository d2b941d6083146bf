"""`vlmpipe status`: which stages are current, which are stale, and why."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlmpipe.cli import options
from vlmpipe.cli.output import print_json
from vlmpipe.config import load_config
from vlmpipe.pipeline import RunStore, run_status

COLOURS = {"current": "green", "stale": "yellow", "missing": "dim"}


def status(
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash every published file again.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Say for each stage whether it is current and, if not, which key or file changed."""
    from vlmpipe.stages import STAGES  # what they stand on would slow `--help`

    loaded = load_config(config or (), overrides or ())
    store = RunStore(loaded.run.outputs_dir, loaded.run.name)
    rows = run_status(STAGES, loaded, store, verify=verify)
    if as_json:
        stages = [
            {
                "stage": row.stage,
                "number": row.number,
                "version": row.version,
                "state": row.state,
                "why": list(row.why),
            }
            for row in rows
        ]
        print_json({"run": loaded.run.name, "stages": stages})
        return
    table = Table(title=escape(f"run {loaded.run.name} ({store.folder})"), title_justify="left")
    for column in ("", "stage", "version", "state", "why"):
        table.add_column(column)
    for row in rows:
        state = f"[{COLOURS[row.state]}]{row.state}[/]"
        table.add_row(
            str(row.number), row.stage, row.version or "-", state, escape(", ".join(row.why))
        )
    Console().print(table)
