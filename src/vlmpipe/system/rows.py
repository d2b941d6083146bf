"""One requirement held against the machine: a row of the check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "advice", "missing"]


@dataclass(frozen=True)
class Requirement:
    """`missing` stops the run, `advice` does not."""

    requirement: str
    needed: str
    found: str
    status: Status
    remedy: str = ""
    """What to do; empty where nothing is to be done."""

    def __str__(self) -> str:
        return f"{self.requirement}: {self.needed}; found {self.found}"


def ok_or(
    otherwise: Status, holds: bool, *, requirement: str, needed: str, found: str, remedy: str
) -> Requirement:
    """A row that is ok where the requirement holds, and `otherwise` with its remedy where not."""
    if holds:
        return Requirement(requirement, needed, found, "ok")
    return Requirement(requirement, needed, found, otherwise, remedy)


def whole_gib(gib: float) -> str:
    """Free space in steps so coarse that asking again a minute later gives the same text."""
    if gib < 10:
        return f"{int(gib)} GiB"
    return f"over {int(gib) // 10 * 10} GiB"
