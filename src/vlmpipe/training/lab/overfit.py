"""A few samples learned by heart: whoever cannot do that learns nothing from many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from vlmpipe.config import Config
from vlmpipe.config.train import CurriculumPhase
from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.hf import HfEngine
from vlmpipe.errors import StageError
from vlmpipe.evaluation.reliance import with_images
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.families import Family
from vlmpipe.pipeline.events import Reporter
from vlmpipe.pipeline.files import write_json
from vlmpipe.training.curriculum import unfreezing
from vlmpipe.training.evaluate import mean_loss
from vlmpipe.training.lab.findings import Evidence, Finding, find_causes
from vlmpipe.training.lab.opening import open_trial, trial_config
from vlmpipe.training.lab.samples import contradictions, cut, mask_faults, spread
from vlmpipe.training.lab.steps import Step
from vlmpipe.training.lab.trial import Observer, train_watched
from vlmpipe.training.preparation import TrainingData
from vlmpipe.training.session import TrainingSession
from vlmpipe.training.watch.task_exam import unnoticed

FOLDER_NAME = "overfit"
ROOM = 16
"""Tokens that an answer may be longer than its reference before it is cut."""

WORTH_ANOTHER_LOOK = 0.5
"""Near zero but with a wrong answer, the answers are asked again at this share of the loss."""


@dataclass(frozen=True)
class Heart:
    """What is to be learned by heart."""

    samples: int = 4
    steps: int = 200
    limit: float = 0.02
    """Mean loss a supervised token, nats."""


@dataclass(frozen=True)
class Recital:
    """One sample's own greedy answer."""

    id: str
    reference: str
    answer: str

    @property
    def same(self) -> bool:
        """Blanks at the ends are the template's affair."""
        return self.answer.strip() == self.reference.strip()

    @property
    def departure(self) -> str:
        """Where the answer leaves the reference."""
        pairs = zip(self.answer.strip(), self.reference.strip(), strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if place is None:
            place = min(len(self.answer.strip()), len(self.reference.strip()))
        return (
            f"{self.id}: at character {place} {cut(self.answer.strip()[place:])!r} instead of"
            f" {cut(self.reference.strip()[place:])!r}"
        )


@dataclass(frozen=True)
class Overfit:
    """What came of it."""

    asked: Heart
    available: int
    """Training samples that there are."""

    steps: tuple[Step, ...]
    loss_before: float
    loss: float
    """Afterwards, over the same samples."""

    blank_loss: float | None
    recitals: tuple[Recital, ...]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether the samples are known by heart."""
        return self.loss <= self.asked.limit and all(each.same for each in self.recitals)

    def as_json(self) -> dict[str, Any]:
        """Plain values; a loss that is no number is null."""
        return {
            "passed": self.passed,
            "asked": asdict(self.asked),
            "samples": len(self.recitals),
            "available": self.available,
            "steps": len(self.steps),
            "loss_before": self.loss_before,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "blank_loss": self.blank_loss,
            "answers": [asdict(each) | {"same": each.same} for each in self.recitals],
            "findings": [asdict(each) for each in self.findings],
            "curve": [
                {name: value for name, value in asdict(step).items() if math.isfinite(value)}
                for step in self.steps
            ],
        }


def overfit(
    config: Config,
    base: BaseModelFolder,
    data: TrainingData,
    asked: Heart,
    folder: Path,
    reporter: Reporter,
) -> Overfit:
    """Train a few of the samples, all of them in each step, until the model recites them.

    They are seen at the image size that serving uses, without dropout, warm-up or decay, at the
    run's own `train.learning_rate`. `folder` gets `result.json`; the weights are thrown away.

    Raises:
        StageError: where there are no samples, or the training could not begin either.
    """
    if not len(data.train):
        raise StageError(
            "there are no training samples to learn by heart", "see data.sources, data.synthetic"
        )
    places = spread(asked.samples, len(data.train))
    samples = [data.train[place] for place in places]
    folder.mkdir(parents=True, exist_ok=True)
    session = open_trial(
        by_heart(config, base.family, asked, len(samples)),
        base,
        TrainingData(samples, (), [1.0] * len(samples)),
        folder,
        reporter,
    )
    if len(samples) < asked.samples:
        reporter.note(
            f"all {len(samples)} training samples are taken: there are no {asked.samples}"
        )
    found = replace(_learn(session, samples, asked), available=len(data.train))
    write_json(folder / "result.json", found.as_json())
    return found


def by_heart(config: Config, family: Family, asked: Heart, count: int) -> Config:
    """The configuration of one phase in which each step sees all of `count` samples."""
    train = config.train
    phases: tuple[CurriculumPhase, ...] = ()
    if family.has_vision and train.curriculum:
        largest = max(train.curriculum, key=lambda each: each.max_size[0] * each.max_size[1])
        opened = unfreezing(train, has_vision=True)[-1]
        phases = (CurriculumPhase(name="by-heart", max_size=largest.max_size, unfreeze=opened),)
    batch = min(train.batch_size, count)
    return trial_config(
        config,
        curriculum=phases,
        max_steps=asked.steps,
        lr_scheduler="constant",
        warmup_ratio=0.0,
        weight_decay=0.0,
        batch_size=batch,
        batch_tokens=None,
        gradient_accumulation=math.ceil(count / batch),
        lora=train.lora.model_copy(update={"dropout": 0.0}),
        augment=train.augment.model_copy(update={"resize_kernels": ("bicubic",)}),
    )


def _learn(session: TrainingSession, samples: Sequence[Sample], asked: Heart) -> Overfit:
    phase, scope = session.phases[0], session.config.train.loss.scope
    faults = mask_faults(samples, session.encoder, scope, phase.grid)
    conflicts = contradictions(samples)
    before = _loss(session, samples)
    course = _Course(session, samples, asked)
    rate = phase.learning_rate
    if not faults:  # nothing would be learned, or the wrong thing
        train_watched(
            session,
            replace(phase, steps=asked.steps),
            session.preparation.plan(phase),
            Observer(lambda number: rate, course.is_enough),
        )
    session.reporter.progress_done()
    loss = _loss(session, samples)
    recitals = course.recitals or recite(session, samples)
    blank = _blank_loss(session, samples)
    steps = tuple(course.steps)
    found = Overfit(asked, len(samples), steps, before, loss, blank, tuple(recitals), ())
    if found.passed:
        return found
    wrong = [each.departure for each in recitals if not each.same]
    evidence = Evidence(course.steps, asked.limit, loss, blank, faults, conflicts, wrong)
    return replace(found, findings=tuple(find_causes(evidence, session.config.train)))


class _Course:
    """The steps so far, and the answers of the last one where they were asked."""

    def __init__(self, session: TrainingSession, samples: Sequence[Sample], asked: Heart) -> None:
        self._session, self._samples, self._asked = session, samples, asked
        self._look_at = asked.limit
        self.steps: list[Step] = []
        self.recitals: list[Recital] = []

    def is_enough(self, step: Step) -> bool:
        """Whether to stop: all known by heart, or a loss that is no number."""
        self.steps.append(step)
        self.recitals = []
        self._session.reporter.progress(
            "by heart", step.number, self._asked.steps, loss=f"{step.loss:.4f}"
        )
        if not math.isfinite(step.loss + step.grad_norm):
            return True
        if step.loss > self._look_at or _loss(self._session, self._samples) > self._asked.limit:
            return False
        self._look_at = step.loss * WORTH_ANOTHER_LOOK
        self.recitals = recite(self._session, self._samples)
        return all(each.same for each in self.recitals)


def recite(session: TrainingSession, samples: Sequence[Sample]) -> list[Recital]:
    """The model's own greedy answers; what generation leaves in the model is taken back."""
    encoder = session.encoder
    with unnoticed(session.model):
        engine = HfEngine(session.model, encoder, "hf:by-heart")
        recitals = []
        for sample in samples:
            tokens = encoder.tokenizer(sample.reference, add_special_tokens=False)["input_ids"]
            answer = engine.complete(sample.prompt, max_new_tokens=len(tokens) + ROOM)
            recitals.append(Recital(sample.id, sample.reference, answer.text))
    return recitals


def _loss(session: TrainingSession, samples: Sequence[Sample]) -> float:
    scope, grid = session.config.train.loss.scope, session.phases[0].grid
    with unnoticed(session.model):
        return mean_loss(
            session.model, samples, session.encoder, scope, grid, session.autocast_dtype
        )


def _blank_loss(session: TrainingSession, samples: Sequence[Sample]) -> float | None:
    """With a white image of the same size in the place of each; None where there are none."""
    if not any(sample.images for sample in samples):
        return None
    blanks = [
        with_images(sample, [Image.new("RGB", image.size, "white") for image in sample.images])
        if sample.images
        else sample
        for sample in samples
    ]
    return _loss(session, blanks)
