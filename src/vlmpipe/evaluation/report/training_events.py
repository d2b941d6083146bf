"""How a training went: what each phase ran of what was planned, and what was noticed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmpipe.evaluation.report.numbers import figure, is_number

Row = Mapping[str, Any]
MOST_EVENTS = 40
TOLD_SAMPLES = 3

EVENTS = {
    "bad_step": "step left out",
    "loss_spike": "loss spike",
    "grad_norm_spike": "gradient spike",
    "plateau": "plateau",
    "stopped_early": "stopped early",
    "examined": "examined",
}
"""By the name in metrics.jsonl, as people read it."""


@dataclass(frozen=True)
class TrainingEvent:
    """Something that was noticed at a step."""

    step: int
    phase: str
    kind: str
    sentence: str


@dataclass(frozen=True)
class TrainingEvents:
    """In the order of the steps; measurements of early stopping give way to what is rarer."""

    shown: Sequence[TrainingEvent]
    left_out: int


def noticed(rows: Sequence[Row]) -> TrainingEvents:
    """All events of metrics.jsonl, as many as a page can take."""
    events = [row for row in rows if _is_event(row)]
    by_weight = sorted(events, key=lambda row: row["event"] == "examined")
    kept = sorted(by_weight[:MOST_EVENTS], key=lambda row: row["step"])
    return TrainingEvents([_event(row) for row in kept], len(events) - len(kept))


def trained_phases(planned: Any, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The planned phases with `ran`, the steps taken, None where no row tells; and `left_at`, the
    step whose weights a phase that ended early left.
    """
    return [
        {**phase, "ran": _steps_of(phase, rows), "left_at": _left_at(phase, rows)}
        for phase in (planned if isinstance(planned, list) else [])
        if isinstance(phase, Mapping)
    ]


def _is_event(row: Row) -> bool:
    name = row.get("event")
    return isinstance(name, str) and name in EVENTS and is_number(row.get("step"))


def _steps_of(phase: Row, rows: Sequence[Row]) -> int | None:
    own = [row for row in _own(phase, rows) if "eval_loss" not in row]
    return len({row["step"] for row in own if is_number(row.get("step"))}) or None


def _left_at(phase: Row, rows: Sequence[Row]) -> Any:
    stops = [row for row in _own(phase, rows) if row.get("event") == "stopped_early"]
    return stops[-1].get("best_step") if stops else None


def _own(phase: Row, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.get("phase") == phase.get("name")]


def _event(row: Row) -> TrainingEvent:
    name = str(row["event"])
    sentences = {
        "bad_step": _bad_step,
        "loss_spike": _spike,
        "grad_norm_spike": _spike,
        "plateau": _plateau,
        "stopped_early": _stop,
        "examined": _exam,
    }
    return TrainingEvent(row["step"], str(row.get("phase", "")), EVENTS[name], sentences[name](row))


def _bad_step(row: Row) -> str:
    samples = row.get("samples")
    listed = samples if isinstance(samples, list) else []
    named = [each for each in listed if isinstance(each, Mapping)]
    told = ", ".join(f"{each.get('id')} ({each.get('origin')})" for each in named[:TOLD_SAMPLES])
    more = len(named) - TOLD_SAMPLES
    return f"{row.get('what')}; samples {told}" + (f" and {more} more" if more > 0 else "")


def _spike(row: Row) -> str:
    return (
        f"{figure(row.get('value'))}, {figure(row.get('spreads'), 1)} spreads above the median"
        f" {figure(row.get('median'))} of the steps before it"
    )


def _plateau(row: Row) -> str:
    return f"the mean loss did not fall over {figure(row.get('steps'))} steps"


def _exam(row: Row) -> str:
    best = ", the best so far" if row.get("best") is True else ""
    return f"{_measured(row)}{best}"


def _stop(row: Row) -> str:
    best = figure(row.get("best_step"))
    return f"the phase left the weights of step {best}: {_measured(row)}"


def _measured(row: Row) -> str:
    loss = f", loss {figure(row['heldout_loss'])}" if "heldout_loss" in row else ""
    of = f" of {figure(row['samples'])} held-out samples" if "samples" in row else ""
    return f"{row.get('metric', 'metric')} {figure(row.get('value'))}{loss}{of}"
