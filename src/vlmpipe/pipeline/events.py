"""What a running stage tells whoever watches; the CLI draws it, tests collect it."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives events; every method may be called from the main thread only."""

    def stage_started(self, stage: str, number: int, why: str) -> None:
        """A stage begins; `why` says what made it run."""

    def stage_cached(self, stage: str, number: int, version: str) -> None:
        """A published version serves."""

    def stage_finished(self, stage: str, number: int, version: str, seconds: float) -> None:
        """A stage has its version: a new one, or the one that it found the same again."""

    def note(self, text: str) -> None:
        """One line for the person who watches."""

    def progress(self, label: str, done: float, total: float | None, **fields: str) -> None:
        """Work under way: `done` of `total` (None where unknown), with fields such as loss."""

    def progress_done(self) -> None:
        """The work last reported is over."""


class SilentReporter:
    """A reporter that says nothing."""

    def stage_started(self, stage: str, number: int, why: str) -> None:
        """Ignore."""

    def stage_cached(self, stage: str, number: int, version: str) -> None:
        """Ignore."""

    def stage_finished(self, stage: str, number: int, version: str, seconds: float) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""

    def progress(self, label: str, done: float, total: float | None, **fields: str) -> None:
        """Ignore."""

    def progress_done(self) -> None:
        """Ignore."""
