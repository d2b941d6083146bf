"""Section `run`: the name of a run, where it is written, its seed."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vlmpipe.config.base import Section, UserPath


class RunConfig(Section):
    """Identity of a run."""

    name: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Folder under `outputs_dir`, and the first part of every exported file's name."""

    outputs_dir: UserPath = Path("outputs")
    """Where runs are kept; relative to the working directory."""

    seed: int = Field(42, ge=0, lt=2**32)
    """Seeds the split, the synthetic data, the adapter's initialisation and the sample order."""
