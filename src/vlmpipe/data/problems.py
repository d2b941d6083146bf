"""A sample that cannot be used, and the sample before it is known whether it can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vlmpipe.encoding.conversation import Sample


class SampleError(ValueError):
    """What is wrong with one sample, without its place; never leaves this room."""


@dataclass(frozen=True)
class Candidate:
    """A sample still to be read and audited."""

    origin: str
    """`file:line`, for messages."""

    load: Callable[[], Sample]
    """Reads it, images decoded; raises SampleError."""

    weight: float = 1.0
    source: int = 0
    """Its place in `data.sources`."""
