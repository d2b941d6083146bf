"""Where a bundle departs from what convert handed on, told without asking the model anything."""

from __future__ import annotations

from pathlib import Path

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.pipeline.files import sha256_of
from vlmpipe.serving.quants import ServedFiles
from vlmpipe.serving.settings import ServiceSettings


def departures(
    bundle: Path, settings: ServiceSettings, served: ServedFiles, contract: PreprocessContract
) -> list[str]:
    """One line for each file that is another, and for each field of the contract.

    Raises:
        ArtifactError: when the bundle's contract cannot be read.
    """
    pairs = [(settings.gguf, served.gguf, f"the {served.quant} file")]
    if settings.mmproj is not None and served.mmproj is not None:
        pairs.append((settings.mmproj, served.mmproj, "the mmproj"))
    files = [
        f"{name} in the bundle is not {what} that convert published, {path.name}"
        for name, path, what in pairs
        if not _same(bundle / name, path)
    ]
    return [*files, *_fields(settings.contract(bundle), contract)]


def _same(one: Path, other: Path) -> bool:
    """Links of one file are not read."""
    return one.samefile(other) or sha256_of(one) == sha256_of(other)


def _fields(found: PreprocessContract, expected: PreprocessContract) -> list[str]:
    ours, theirs = expected.model_dump(), found.model_dump()
    return [
        f"the bundle's contract has another {name}: {_short(theirs[name])}, convert's has"
        f" {_short(ours[name])}"
        for name in ours
        if ours[name] != theirs[name]
    ]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
