"""Which answer of a sheet is whose: kept with the run, never in the sheet."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from vlmpipe.errors import ArtifactError
from vlmpipe.pipeline.files import write_text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyItem(_Strict):
    """One pair of the sheet."""

    sample: str
    split: str
    task: str
    first: str
    """The engine whose answer is the sheet's answer 1."""

    scores: dict[str, float]
    """The task's primary metric by engine."""

    answers: dict[str, str]
    """Digest of each engine's answer."""


class Key(_Strict):
    """What a sheet conceals."""

    engines: tuple[str, str]
    seed: str
    """What the order of each pair was drawn by. Secret until everybody has judged."""

    identical: int
    """Samples left out because both engines gave the same answer."""

    items: dict[str, KeyItem]
    """By the name that the sheet has for the pair."""

    @property
    def sheet(self) -> str:
        """The sheet's name: the first 16 hex digits of the key's sha256, which seal it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def write_key(folder: Path, key: Key) -> Path:
    """`<sheet>.key.json` in a folder."""
    path = _path(folder, key.sheet)
    write_text(path, key.model_dump_json(indent=2) + "\n")
    return path


def read_key(folder: Path, sheet: str) -> Key:
    """The key of a sheet.

    Raises:
        ArtifactError: where this run has none, or it is not the one that the sheet was made with.
    """
    path = _path(folder, sheet)
    try:
        key = Key.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        known = ", ".join(sorted(p.name.split(".")[0] for p in folder.glob("*.key.json"))) or "none"
        raise ArtifactError(
            f"this run has no sheet {sheet!r} (its sheets: {known})",
            "name the run that the sheet was exported from: run.name=NAME",
            f"or bring its key back to {path}",
        ) from None
    except (OSError, ValidationError) as exc:
        raise ArtifactError(
            f"{path} cannot be read as the key of a sheet: {str(exc).splitlines()[0]}",
            "bring the file back as `vlmpipe review export` wrote it",
        ) from exc
    if key.sheet != sheet:
        raise ArtifactError(
            f"{path} was changed after the sheet was made: whose answers these were is not known",
            "bring the file back as `vlmpipe review export` wrote it",
        )
    return key


def _path(folder: Path, sheet: str) -> Path:
    return folder / f"{sheet}.key.json"
