"""What one invocation asks of the runner, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmpipe.pipeline.manifest import VerdictRecord


@dataclass(frozen=True)
class RunOptions:
    """What one invocation asks for."""

    first: str | None = None
    last: str | None = None
    force: frozenset[str] = frozenset()
    use: Mapping[str, str] = field(default_factory=dict)
    """Stage name to version: taken as it is, not run."""

    allow_failed_gate: bool = False
    command: str = "vlmpipe"
    """This invocation's command line, for the journal and for whoever meets the lock."""

    resume: Callable[[frozenset[str]], str] | None = None
    """The command line that goes on after a failure, given the forced stages that were not yet
    published; unset: `command`."""

    argv: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    git_commit: str | None = None


@dataclass(frozen=True)
class StageResult:
    """What became of one stage in an invocation."""

    stage: str
    number: int
    version: str
    cached: bool
    seconds: float
    summary: tuple[str, ...]
    verdict: VerdictRecord | None
    """Its `mode` is that of this invocation, also for a version published under another."""
