"""`vlmpipe config show` and `config check`: every key with its value and meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from vlmpipe.cli import options
from vlmpipe.config import load_config

app = typer.Typer(help="Show or check a configuration.", no_args_is_help=True)


@app.command()
def show(
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    as_json: options.AsJson = False,
) -> None:
    """Print every key with its value and what it does."""
    loaded = load_config(config or (), overrides or ())
    if as_json:
        print(json.dumps(loaded.model_dump(mode="json", by_alias=True)))
        return
    console = Console()
    for key, value, meaning in _rows(loaded, ""):
        console.print(
            f"[bold]{key}[/] = {escape(json.dumps(value, ensure_ascii=False))}",
            highlight=False,
            soft_wrap=True,
        )
        if meaning:
            console.print(f"    {escape(' '.join(meaning.split()))}", style="dim", soft_wrap=True)


@app.command()
def check(
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    as_json: options.AsJson = False,
) -> None:
    """Validate a configuration; all faults are reported together, exit code 2."""
    loaded = load_config(config or (), overrides or ())
    if as_json:
        print(json.dumps({"valid": True, "run": loaded.run.name}))
    else:
        Console().print(f"valid; run {loaded.run.name!r}", highlight=False)


def _rows(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any, str]]:
    plain = section.model_dump(mode="json", by_alias=True)
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), field.alias or name
        if isinstance(value, BaseModel):
            yield from _rows(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", plain[key], field.description or ""
