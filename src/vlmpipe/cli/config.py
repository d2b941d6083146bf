"""`vlmpipe config show` and `config check`: every key with its value and meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from vlmpipe.cli import options
from vlmpipe.cli.output import print_json
from vlmpipe.config import load_config
from vlmpipe.config.faults import section_of
from vlmpipe.errors import ConfigError

app = typer.Typer(help="Show or check a configuration.")

ShowWords = Annotated[
    list[str] | None,
    typer.Argument(
        help="Settings such as train.max_steps=20, and sections to show, such as train.lora.",
        metavar="KEY=VALUE|SECTION",
    ),
]


class Row(NamedTuple):
    """One key of the configuration; `value` is None for a key of a list's elements."""

    key: str
    value: str | None
    meaning: str


@app.command()
def show(
    words: ShowWords = None,
    config: options.ConfigFiles = None,
    as_json: options.AsJson = False,
) -> None:
    """Print every key with its value and what it does."""
    overrides = [word for word in words or () if "=" in word]
    sections = [word for word in words or () if "=" not in word]
    loaded = load_config(config or (), overrides)
    rows = _chosen(list(_rows(loaded)), sections)
    if as_json:
        print_json(loaded.model_dump(mode="json", by_alias=True))
        return
    console = Console()
    for row in rows:
        value = "" if row.value is None else f" = {escape(row.value)}"
        console.print(f"[bold]{escape(row.key)}[/]{value}", highlight=False, soft_wrap=True)
        meaning = escape(" ".join(row.meaning.split()))
        console.print(f"    {meaning}", style="dim", highlight=False, soft_wrap=True)


@app.command()
def check(
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    as_json: options.AsJson = False,
) -> None:
    """Validate a configuration; all faults are reported together, exit code 2."""
    loaded = load_config(config or (), overrides or ())
    if as_json:
        print_json({"valid": True, "run": loaded.run.name})
    else:
        Console().print(f"valid; run {loaded.run.name!r}", highlight=False)


def _chosen(rows: list[Row], sections: Sequence[str]) -> list[Row]:
    unknown = [name for name in sections if not any(_within(row.key, name) for row in rows)]
    if unknown:
        raise ConfigError(
            f"no section or key is named {', '.join(unknown)}",
            "`vlmpipe config show` prints all of them",
        )
    if not sections:
        return rows
    return [row for row in rows if any(_within(row.key, name) for name in sections)]


def _within(key: str, name: str) -> bool:
    return key == name or key.startswith((f"{name}.", f"{name}[]."))


def _rows(section: BaseModel, prefix: str = "") -> Iterator[Row]:
    plain = section.model_dump(mode="json", by_alias=True)
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{prefix}{field.alias or name}"
        if isinstance(value, BaseModel):
            yield from _rows(value, f"{key}.")
            continue
        shown = json.dumps(plain[field.alias or name], ensure_ascii=False)
        yield Row(key, shown, field.description or "")
        element = section_of(field.annotation)
        if element:
            place = f"{key}[]." if _is_list(field.annotation) else f"{key}."
            yield from _element_rows(element, place)


def _is_list(annotation: Any) -> bool:
    """Whether values are lists; an optional section is one section."""
    inner = (annotation, *get_args(annotation))
    return any(get_origin(each) in (list, tuple) for each in inner)


def _element_rows(element: type[BaseModel], prefix: str) -> Iterator[Row]:
    for name, field in element.model_fields.items():
        default: Any = "" if field.is_required() else f" (default {json.dumps(field.default)})"
        yield Row(f"{prefix}{field.alias or name}", None, f"{field.description or ''}{default}")
