"""Forgetting: what the training cost the model where it was not trained.

Both models are teacher-forced on a general probe (see `general_probe`, or a file of one's own).
What the base does not know cannot be forgotten: a kind of sample counts only where the base's loss
is below half of what guessing costs, ln(vocabulary) nats a token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.base import Engine, Score
from vlmpipe.evaluation.answers import token_mean
from vlmpipe.evaluation.progress import Progress, Steps, untold
from vlmpipe.evaluation.statistics import Interval, Paired, compare_paired, ratio_interval
from vlmpipe.evaluation.summary import perplexity_of
from vlmpipe.evaluation.validation.comparison import BASE, TUNED
from vlmpipe.evaluation.validation.figures import Figures, interval_json

SPLIT = "general"
KNOWN_SHARE = 0.5
"""Of the loss of guessing; between the two a base has picked up the signs at best, and its losses
go up and down for reasons that are no forgetting."""


@dataclass(frozen=True)
class Kind:
    """One kind of general sample; losses are token means, nats."""

    name: str
    samples: int
    base_loss: float
    tuned_loss: float
    known: bool
    """Whether the base knows it well enough to forget it."""


@dataclass(frozen=True)
class Forgetting:
    """The general probe before and after."""

    scores: Mapping[str, Sequence[Score]]
    """Of each sample, by model."""

    kinds: Sequence[Kind]
    change: Paired | None
    """Loss of the tuned model minus the base's, sample by sample of the kinds that the base knows;
    None where it knows none."""

    guessing: float
    """ln(vocabulary), nats a token."""

    @property
    def known(self) -> str:
        """Names of the kinds that count."""
        return ", ".join(kind.name for kind in self.kinds if kind.known)

    @property
    def base_loss(self) -> float:
        """Of the base, over all samples."""
        return _loss(self.scores[BASE])

    def figures(self) -> Figures:
        """`general/loss/…`, `general/perplexity/…`, `general/token_accuracy/…` over all samples,
        and `general/loss_change/tuned` over those that count.
        """
        found = Figures()
        for model, scores in self.scores.items():
            found |= _figures(scores, model)
        if self.change is not None:
            name = f"{SPLIT}/loss_change/{TUNED}"
            interval = self.change.interval
            found |= Figures(
                {name: self.change.difference}, {name: interval} if interval is not None else {}
            )
        losses = [[score.loss for score in self.scores[model]] for model in (BASE, TUNED)]
        return found | Figures(paired={f"{SPLIT}/loss": compare_paired(*losses)})

    def as_json(self) -> dict[str, Any]:
        """As results.json holds it."""
        change = self.change
        return {
            "samples": len(self.scores[BASE]),
            "guessing": self.guessing,
            "kinds": [asdict(kind) for kind in self.kinds],
            "loss_change": None if change is None else change.difference,
            "interval": None if change is None else interval_json(change.interval),
            "p_value": None if change is None else change.p_value,
        }


def measure_forgetting(
    engines: Mapping[str, Engine],
    samples: Sequence[Sample],
    vocabulary: int,
    *,
    progress: Progress = untold,
) -> Forgetting | None:
    """Score every sample with `base` and `tuned`; None for no samples."""
    if not samples:
        return None
    steps = Steps(2 * len(samples), progress, "general probe")
    scores: dict[str, list[Score]] = {BASE: [], TUNED: []}
    for model, found in scores.items():
        for sample in samples:
            found.append(engines[model].score(sample.prompt, sample.reference))
            steps()
    guessing = math.log(vocabulary)
    kinds = _kinds(samples, scores, guessing * KNOWN_SHARE)
    known = {kind.name for kind in kinds if kind.known}
    losses = [
        [
            score.loss
            for sample, score in zip(samples, scores[m], strict=True)
            if sample.task in known
        ]
        for m in (BASE, TUNED)
    ]
    return Forgetting(scores, kinds, compare_paired(*losses) if known else None, guessing)


def _kinds(
    samples: Sequence[Sample], scores: Mapping[str, Sequence[Score]], most: float
) -> list[Kind]:
    found = []
    for name in dict.fromkeys(sample.task for sample in samples):
        places = [place for place, sample in enumerate(samples) if sample.task == name]
        base, tuned = (_loss([scores[model][p] for p in places]) for model in (BASE, TUNED))
        found.append(Kind(name, len(places), base, tuned, known=base < most))
    return found


def _loss(scores: Sequence[Score]) -> float:
    return token_mean([(score.loss, score.tokens) for score in scores])


def _figures(scores: Sequence[Score], model: str) -> Figures:
    tokens = [float(score.tokens) for score in scores]
    loss = ratio_interval([s.loss * s.tokens for s in scores], tokens)
    values = {"loss": _loss(scores), "perplexity": perplexity_of(_loss(scores))}
    intervals = {"loss": loss}
    if loss is not None:
        intervals["perplexity"] = Interval(perplexity_of(loss.low), perplexity_of(loss.high))
    right = [s.accuracy for s in scores if s.accuracy is not None]
    if len(right) == len(scores):
        values["token_accuracy"] = token_mean([(s.accuracy or 0.0, s.tokens) for s in scores])
        counts = [(s.accuracy or 0.0) * s.tokens for s in scores]
        intervals["token_accuracy"] = ratio_interval(counts, tokens)
    return Figures(
        {f"{SPLIT}/{name}/{model}": value for name, value in values.items()},
        {f"{SPLIT}/{n}/{model}": each for n, each in intervals.items() if each is not None},
    )
