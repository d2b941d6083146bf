"""What each phase of the training bought, and what the training cost elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmpipe.evaluation.report.figures import SIGNIFICANT, SPLITS, Bounds, bounds_of
from vlmpipe.tasks.metric_names import title_of

MOST_KINDS = 20


@dataclass(frozen=True)
class PhaseRow:
    """The model as one phase left it."""

    name: str
    last_step: int | None
    loss: float | None
    change: float | None
    """Of the samples' losses against the row above."""

    interval: Bounds | None
    p_value: float | None
    value: float | None
    """Primary metric of the samples that were answered."""

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `same` where chance explains the change."""
        if self.change is None or self.p_value is None or self.p_value >= SIGNIFICANT:
            return "same"
        return "better" if self.change < 0 else "worse"


@dataclass(frozen=True)
class PhaseTable:
    """The base and every phase after it, on the same samples."""

    rows: Sequence[PhaseRow]
    samples: int
    answered: int
    split: str
    metric: str


@dataclass(frozen=True)
class ForgettingTable:
    """Losses on what was not trained, before and after."""

    kinds: Sequence[Mapping[str, Any]]
    """Each with `name`, `samples`, `base_loss`, `tuned_loss` (nats a token), and `known` of the
    base.
    """

    samples: int
    guessing: float | None
    """Loss of a model that knows nothing."""

    change: float | None
    interval: Bounds | None
    p_value: float | None


def phase_table(results: Mapping[str, Any]) -> PhaseTable | None:
    """None where validate did not compare phases."""
    found = results.get("phases")
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(rows, list) or len(rows) < 2:
        return None
    split = str(found.get("split", ""))
    return PhaseTable(
        rows=[_phase(row) for row in rows if isinstance(row, dict)],
        samples=found.get("samples", 0),
        answered=found.get("answered", 0),
        split=SPLITS.get(split, split),
        metric=title_of(str(found.get("primary_metric", ""))),
    )


def forgetting_table(results: Mapping[str, Any]) -> ForgettingTable | None:
    """None where validate asked no general probe."""
    found = results.get("general")
    kinds = found.get("kinds") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(kinds, list) or not kinds:
        return None
    return ForgettingTable(
        kinds=[kind for kind in kinds if isinstance(kind, dict)][:MOST_KINDS],
        samples=found.get("samples", 0),
        guessing=found.get("guessing"),
        change=found.get("loss_change"),
        interval=bounds_of(found.get("interval")),
        p_value=found.get("p_value"),
    )


def _phase(row: Mapping[str, Any]) -> PhaseRow:
    return PhaseRow(
        name=str(row.get("name", "")),
        last_step=row.get("last_step"),
        loss=row.get("loss"),
        change=row.get("loss_change"),
        interval=bounds_of(row.get("interval")),
        p_value=row.get("p_value"),
        value=row.get("value"),
    )
