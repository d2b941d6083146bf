"""What a command that runs stages was told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """What a run command was told."""

    files: Sequence[Path]
    overrides: Sequence[str]
    first: str | None = None
    last: str | None = None
    force: Sequence[str] = ()
    use: Sequence[str] = ()
    allow_failed_gate: bool = False
    dry_run: bool = False
    as_json: bool = False
