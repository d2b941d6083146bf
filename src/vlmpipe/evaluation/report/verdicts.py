"""Every verdict of a run as a sentence: those of validate one by one, those of the gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NAMES = {"overfit": "over-fit", "numbers": "numbers are numbers"}
"""Of rules whose key is not what people say."""


@dataclass(frozen=True)
class VerdictRow:
    """One thing that was judged."""

    name: str
    passed: bool | None
    """None where it could not be judged."""

    sentence: str

    @property
    def word(self) -> str:
        """`held`, `failed`, or `not judged`."""
        return {True: "held", False: "failed", None: "not judged"}[self.passed]


def verdict_rows(results: Mapping[str, Any]) -> list[VerdictRow]:
    """validate's verdicts, failed ones first; empty for results that name none."""
    given = results.get("verdicts")
    found = [_row(each) for each in given or () if isinstance(each, dict)]
    order = {False: 0, True: 1, None: 2}
    return sorted(found, key=lambda row: order[row.passed])


def _row(verdict: Mapping[str, Any]) -> VerdictRow:
    passed, name = verdict.get("passed"), str(verdict.get("name", ""))
    title = NAMES.get(name, name.replace("_", " "))
    return VerdictRow(
        name=title,
        passed=passed if isinstance(passed, bool) else None,
        sentence=str(verdict.get("sentence", "")).removeprefix(f"{title}: "),
    )
