"""The curriculum's phases compared: what each one bought, on the same samples.

Losses are scored on all samples, answers are asked of a few: generating takes a hundred times as
long. Before the first phase stands the base, after the last one the tuned model; both have answered
already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.base import Engine
from vlmpipe.evaluation.answers import Measure, token_mean
from vlmpipe.evaluation.progress import Progress, Steps, untold
from vlmpipe.evaluation.statistics import Paired, compare_paired
from vlmpipe.evaluation.validation.comparison import BASE, HELDOUT, TRAIN, TUNED, Comparison
from vlmpipe.evaluation.validation.figures import Figures, interval_json
from vlmpipe.training.phase_adapters import PhaseAdapter

After = Callable[[PhaseAdapter], AbstractContextManager[Engine]]
"""The engine with the adapter as a phase left it."""


@dataclass(frozen=True)
class State:
    """A model between two phases."""

    name: str
    """`base`, or the phase that it comes from."""

    number: int | None
    """Of the phase."""

    last_step: int
    losses: Sequence[tuple[float, int]]
    """Of each sample: nats a token, and tokens."""

    values: Sequence[float]
    """Primary metric of the samples that were answered."""

    @property
    def key(self) -> str:
        """`base`, or `0_small`: as it stands in metrics, where a phase may have any name."""
        return self.name if self.number is None else f"{self.number}_{self.name}"

    @property
    def loss(self) -> float:
        """Over all tokens."""
        return token_mean(self.losses)

    @property
    def value(self) -> float | None:
        """Mean primary metric; None where nothing was answered."""
        return sum(self.values) / len(self.values) if self.values else None


@dataclass(frozen=True)
class PhaseTable:
    """The base and every phase after it."""

    states: Sequence[State]
    split: str
    primary_metric: str

    @property
    def changes(self) -> list[tuple[State, Paired]]:
        """Each phase with the change of the samples' losses against the state before it."""
        return [
            (
                after,
                compare_paired([loss for loss, _ in before.losses], [x for x, _ in after.losses]),
            )
            for before, after in pairwise(self.states)
        ]

    @property
    def worse(self) -> list[tuple[State, Paired]]:
        """Phases after which the loss is higher, and told apart from chance."""
        return [each for each in self.changes if each[1].significant and each[1].difference > 0]

    @property
    def undecided(self) -> list[tuple[State, Paired]]:
        """Phases after which the loss is higher, and chance may explain it."""
        rose = [
            after.loss > before.loss or change.difference > 0
            for (before, after), (_, change) in zip(
                pairwise(self.states), self.changes, strict=True
            )
        ]
        return [
            each
            for each, higher in zip(self.changes, rose, strict=True)
            if higher and not each[1].significant
        ]

    def figures(self) -> Figures:
        """`phases/loss/base`, `phases/loss/0_NAME`, `phases/METRIC/0_NAME` and so on."""
        found = {f"phases/loss/{state.key}": state.loss for state in self.states}
        found |= {
            f"phases/{self.primary_metric}/{state.key}": state.value
            for state in self.states
            if state.value is not None
        }
        return Figures(found)

    def as_json(self) -> dict[str, Any]:
        """As results.json holds it."""
        changes = {after.key: change for after, change in self.changes}
        return {
            "split": self.split,
            "samples": len(self.states[0].losses),
            "answered": len(self.states[0].values),
            "primary_metric": self.primary_metric,
            "rows": [_row(state, changes.get(state.key)) for state in self.states],
        }


def compare_phases(
    comparison: Comparison,
    splits: Mapping[str, Sequence[Sample]],
    phases: Sequence[PhaseAdapter],
    after: After,
    *,
    answered: int,
    max_new_tokens: int,
    measure: Measure,
    progress: Progress = untold,
) -> PhaseTable | None:
    """Score every phase but the last, whose model is the tuned one; None for fewer than two
    phases, or where `answered` is 0.

    The held-out samples are taken, or the training probes where nothing was held out.
    """
    split = HELDOUT if splits.get(HELDOUT) else TRAIN
    samples = splits.get(split, ())
    if len(phases) < 2 or not answered or not samples:
        return None
    metric = comparison.primary_metric
    steps = Steps(len(samples) * (len(phases) - 1), progress)
    states = [_known(comparison, split, BASE, None, answered)]
    for phase in phases[:-1]:
        steps.label = f"after phase {phase.name}"
        with after(phase) as engine:
            states.append(
                _state(engine, phase, samples, metric, answered, max_new_tokens, measure, steps)
            )
    states.append(_known(comparison, split, TUNED, phases[-1], answered))
    return PhaseTable(states, split, metric)


def _known(
    comparison: Comparison, split: str, model: str, phase: PhaseAdapter | None, answered: int
) -> State:
    records = comparison.of(split, model)
    values = [record.metrics.get(comparison.primary_metric) for record in records[:answered]]
    return State(
        name=BASE if phase is None else phase.name,
        number=None if phase is None else phase.number,
        last_step=0 if phase is None else phase.last_step,
        losses=[(_number(record.loss), record.reference_tokens or 1) for record in records],
        values=[value for value in values if value is not None],
    )


def _state(
    engine: Engine,
    phase: PhaseAdapter,
    samples: Sequence[Sample],
    metric: str,
    answered: int,
    max_new_tokens: int,
    measure: Measure,
    on_step: Callable[[], None],
) -> State:
    losses, values = [], []
    for place, sample in enumerate(samples):
        score = engine.score(sample.prompt, sample.reference)
        losses.append((score.loss, score.tokens))
        if place < answered:
            text = engine.complete(sample.prompt, max_new_tokens=max_new_tokens).text
            found = measure(sample.task, text, sample.reference).metrics.get(metric)
            values += [] if found is None else [found]
        on_step()
    return State(phase.name, phase.number, phase.last_step, losses, values)


def _number(loss: float | None) -> float:
    """A loss that a record left out was none."""
    return float("nan") if loss is None else loss


def _row(state: State, change: Paired | None) -> dict[str, Any]:
    return {
        "name": state.name,
        "number": state.number,
        "last_step": state.last_step,
        "loss": state.loss,
        "value": state.value,
        "loss_change": None if change is None else change.difference,
        "interval": None if change is None else interval_json(change.interval),
        "p_value": None if change is None else change.p_value,
        "worse": change is not None and change.significant and change.difference > 0,
    }
