"""A stage: a named, numbered, versioned function from settings and upstream folders to a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vlmpipe.pipeline.events import Reporter


class ConfigLike(Protocol):
    """What the pipeline needs of a configuration; it knows nothing of the sections."""

    def model_dump(self, *, mode: str, by_alias: bool) -> dict[str, Any]:
        """The configuration as plain JSON values."""


@dataclass(frozen=True)
class Verdict:
    """A stage's judgement of what it produced; `reasons` names each threshold that failed."""

    passed: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a stage hands back beside the files it wrote."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Flat map of numbers, for the manifest and for thresholds."""

    verdict: Verdict | None = None
    summary: tuple[str, ...] = ()
    """Lines for the person who watches."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """Library and device facts; recorded, never hashed."""


@dataclass(frozen=True)
class StageContext:
    """What a stage is given to work with."""

    config: Any
    folder: Path
    """Empty, or what an interrupted attempt with the same fingerprint left (see `resumable`)."""

    upstream: Mapping[str, Path]
    """Published folder of each consumed stage."""

    run_folder: Path
    log_path: Path
    log: logging.Logger
    reporter: Reporter
    forced: bool = False
    """`--force` was given: nothing is to be taken over from an earlier version."""


@dataclass(frozen=True)
class Stage:
    """Declaration of a stage; `run` does the work."""

    name: str
    number: int
    version: int
    """Raised when the same settings and inputs give other output than before."""

    run: Callable[[StageContext], Outcome]
    reads: tuple[str, ...] = ()
    """Dotted configuration keys or sections that change what this stage produces."""

    ignores: tuple[str, ...] = ()
    """Keys under `reads` that do not."""

    consumes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each upstream stage, patterns of the files it hands on here; `*` also matches `/`."""

    gated_by: tuple[str, ...] = ()
    """Upstream stages whose verdict must hold before this one runs."""

    external: Callable[[Any], Mapping[str, Path]] = lambda config: {}
    """Files outside the run that the result depends on, by a name to show."""

    tools: Callable[[], Mapping[str, str]] = dict
    """Pinned versions of outside tools that decide the result."""

    cached: bool = True
    resumable: bool = False
    """An interrupted attempt's folder is handed back instead of an empty one."""

    @property
    def folder_name(self) -> str:
        """Name of the stage's folder within a run."""
        return f"{self.number}_{self.name}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Every upstream stage that must be published first."""
        return (*self.consumes, *(name for name in self.gated_by if name not in self.consumes))
