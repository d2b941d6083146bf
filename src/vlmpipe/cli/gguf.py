"""`vlmpipe gguf show`: what a GGUF file says of itself, once the folder around it is gone."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vlmpipe.cli import options
from vlmpipe.cli.output import print_json

if TYPE_CHECKING:
    from vlmpipe.encoding.contract import PreprocessContract
    from vlmpipe.export.gguf.metadata import Lineage

app = typer.Typer()

OTHER_TEXT, OTHER_MMPROJ = "TEXT.gguf", "MMPROJ.gguf"
"""Stand for the file that belongs to the one shown."""


@app.callback()
def _group() -> None:
    """Look into a GGUF file that vlmpipe converted, wherever it was copied to."""


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A text file or an mmproj.", metavar="FILE")],
    as_json: options.AsJson = False,
) -> None:
    """Print origin, preprocess contract and llama-server's line; exit 4 when the seal is broken."""
    from vlmpipe.export.gguf.metadata import contract_of, is_tower, lineage_of, verify_seal

    lineage, contract = lineage_of(file), contract_of(file)
    line = None if contract is None else _server_line(file, contract, is_tower(file))
    if not as_json:
        _print(file, [*_origin(lineage), *_rules(contract), ("llama-server", line or "unknown")])
    sealed = verify_seal(file)
    if as_json:
        _print_json(file, lineage, contract, line, sealed)
    elif sealed:
        _row("seal", "whole: its sha256 is the one that it states")
    else:
        _row("seal", "none: nothing tells whether the file changed")


def _origin(lineage: Lineage | None) -> Iterator[tuple[str, str]]:
    if lineage is None:
        yield "run", "unknown: the file carries no lineage"
        return
    yield "run", f"{lineage.run}, by vlmpipe {lineage.version}"
    yield "base model", lineage.base or "unknown"
    yield "merged", f"sha256 {lineage.merged_sha256} over the merged weights"
    yield "trained", f"sha256 {lineage.trained_sha256 or 'unknown'} over the trained weights"


def _rules(contract: PreprocessContract | None) -> Iterator[tuple[str, str]]:
    if contract is None:
        yield "contract", "unknown: the file carries no preprocess contract"
        return
    yield "contract", f"{contract.family}, sha256 {contract.digest}"
    yield "context", f"{contract.context_length} tokens"
    yield "images", _image_rules(contract)
    yield "system", repr(contract.system_prompt) if contract.system_prompt else "no system prompt"


def _image_rules(contract: PreprocessContract) -> str:
    if not contract.has_vision:
        return "none: a text-only model"
    side = contract.grid.factor
    return (
        f"{contract.min_image_tokens} to {contract.max_image_tokens} tokens of {side}x{side}"
        f" pixels, {contract.resize_kernel}: `vlmpipe prepare-image`"
    )


def _server_line(file: Path, contract: PreprocessContract, tower: bool) -> str:
    """What a bare llama-server must be told; the chat template is the text file's own."""
    from vlmpipe.encoding.runtime_flags import runtime_flags

    text, mmproj = (OTHER_TEXT, str(file)) if tower else (str(file), OTHER_MMPROJ)
    sees = ["--mmproj", mmproj] if contract.has_vision else []
    return shlex.join(["llama-server", "-m", text, *sees, *runtime_flags(contract)])


def _print(file: Path, rows: list[tuple[str, str]]) -> None:
    Console().print(str(file), highlight=False, markup=False, soft_wrap=True)
    for name, value in rows:
        _row(name, value)


def _row(name: str, value: str) -> None:
    Console().print(f"  {name:<13} {value}", highlight=False, markup=False, soft_wrap=True)


def _print_json(
    file: Path,
    lineage: Lineage | None,
    contract: PreprocessContract | None,
    line: str | None,
    sealed: bool,
) -> None:
    print_json(
        {
            "file": str(file),
            "lineage": None if lineage is None else asdict(lineage),
            "contract": None if contract is None else contract.model_dump(mode="json"),
            "llama_server": line,
            "sealed": sealed,
        }
    )
