"""Steps of a measurement, told to whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many steps are done, and of how many."""


def untold(label: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass
class Steps:
    """Counts what is done and passes it on."""

    total: int
    tell: Progress
    label: str = ""
    done: int = 0

    def __call__(self) -> None:
        """One more."""
        self.done += 1
        self.tell(self.label, self.done, self.total)
