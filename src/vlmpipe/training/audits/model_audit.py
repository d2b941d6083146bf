"""Every audit of a run without training it: all faults together, each with its ways out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from vlmpipe.config import Config
from vlmpipe.encoding.conversation import Sample
from vlmpipe.errors import ConfigError, StageError
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.loading import resolve_dtype
from vlmpipe.models.wrapping import unwrapped
from vlmpipe.training.adapter import open_parts
from vlmpipe.training.audits.batches import audit_batch
from vlmpipe.training.audits.cache_folder import audit_cache_folder
from vlmpipe.training.audits.census import Census, take_census
from vlmpipe.training.audits.gradient_flow import GradientFlow, audit_gradient_flow
from vlmpipe.training.audits.image_tokens import (
    ImageTokenAudit,
    audit_image_tokens,
    audit_tower,
)
from vlmpipe.training.audits.lengths import LengthAudit
from vlmpipe.training.audits.masks import MaskAudit, audit_masks
from vlmpipe.training.batching.collator import PhaseCollator
from vlmpipe.training.batching.packed_attention import install_packed_attention, packing_for
from vlmpipe.training.batching.positions import positions_for
from vlmpipe.training.batching.rows import Row
from vlmpipe.training.curriculum import Phase, of_different_parts
from vlmpipe.training.input_gradients import drop_input_gradients
from vlmpipe.training.loss.supervised_head import install_supervised_head
from vlmpipe.training.preparation import Preparation, TrainingData, prepare, repacked
from vlmpipe.training.run import load_trainable
from vlmpipe.training.session import autocast_dtype
from vlmpipe.training.startup import TrialStep

MASKED_SAMPLES = 32
PROBED_SAMPLES = 3
ANY_LENGTH = 2**31

Found = TypeVar("Found")
Given = ParamSpec("Given")


@dataclass(frozen=True)
class Check:
    """One audit and how it came out."""

    name: str
    fault: str | None = None
    problems: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Nothing is wrong."""
        return self.fault is None


@dataclass
class ModelAudit:
    """What was found; None where an audit did not come so far."""

    base: str
    family: str
    dtype: str
    samples: int
    checks: list[Check] = field(default_factory=list)
    census: Census | None = None
    lengths: LengthAudit | None = None
    masks: dict[str, MaskAudit] = field(default_factory=dict)
    """By phase."""

    images: ImageTokenAudit | None = None
    gradients: dict[str, GradientFlow] = field(default_factory=dict)
    """By the first phase that trains the same parts."""

    @property
    def passed(self) -> bool:
        """Nothing is wrong anywhere."""
        return all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "base": self.base,
            "family": self.family,
            "dtype": self.dtype,
            "samples": self.samples,
            "passed": self.passed,
            "checks": [
                {"name": check.name, "passed": check.passed, "fault": check.fault}
                for check in self.checks
            ],
            "census": self.census and self.census.as_json(),
            "lengths": self.lengths and self.lengths.as_json(),
            "masks": {phase: audit.as_json() for phase, audit in self.masks.items()},
            "images": self.images and self.images.as_json(),
            "gradients": {phase: flow.as_json() for phase, flow in self.gradients.items()},
        }

    def error(self) -> StageError | None:
        """All faults as one error, None where there is none."""
        faults = [check for check in self.checks if not check.passed]
        if not faults:
            return None
        told = [f"{check.name}: {text}" for check in faults for text in _texts(check)]
        remedies = dict.fromkeys(remedy for check in faults for remedy in check.remedies)
        return StageError(
            f"{len(faults)} of {len(self.checks)} audits found a fault", *remedies, problems=told
        )


def audit_model(config: Config, base: BaseModelFolder, data: TrainingData) -> ModelAudit:
    """Run every audit that a training begins with, and go on past faults where that is possible."""
    audit = ModelAudit(
        base=base.id,
        family=base.family.title,
        dtype=resolve_dtype(config.model.dtype),
        samples=len(data.train),
    )
    run = _Audits(config, base, data, audit)
    preparation = run.prepared()
    if preparation is not None:
        run.over_samples(preparation)
    if config.train.vision_cache == "disk" and base.family.has_vision:
        run.check("folder of the vision cache", audit_cache_folder, config.train)
    loaded = run.check("precision and targets", load_trainable, config, base, audit.dtype)
    if loaded is not None:
        model, audit.census = loaded
        if preparation is not None:
            run.over_model(model, preparation)
    return audit


@dataclass(frozen=True)
class _Audits:
    config: Config
    base: BaseModelFolder
    data: TrainingData
    found: ModelAudit

    def check(
        self,
        name: str,
        work: Callable[Given, Found],
        *args: Given.args,
        **options: Given.kwargs,
    ) -> Found | None:
        """What the work returns; None, and a fault more, where it refuses."""
        try:
            result = work(*args, **options)
        except (StageError, ConfigError) as error:
            fault = Check(name, error.message, error.problems, error.remedies)
            self.found.checks.append(fault)
            return None
        self.found.checks.append(Check(name))
        return result

    def prepared(self) -> Preparation | None:
        """Phases and batches; where the samples are at fault, those of settings that bear with
        them, so that whatever else is wrong is found too.
        """
        name = "samples and phases"
        preparation = self.check(name, prepare, self.config, self.base, self.data, 1)
        if preparation is not None:
            self.found.lengths = preparation.length_audit
            return preparation
        for lenient in _lenient(self.config):
            with suppress(StageError):
                return prepare(lenient, self.base, self.data, 1)
        return None

    def over_samples(self, preparation: Preparation) -> None:
        """Masks and image tokens, before any model is loaded."""
        encoder, scope = preparation.encoder, self.config.train.loss.scope
        for phase in preparation.phases:
            name, samples = f"masks of phase {phase.name}", self._some(phase)
            masks = self.check(name, audit_masks, samples, encoder, scope, phase.grid)
            if masks is not None:
                self.found.masks[phase.name] = masks
        if self.base.family.has_vision:
            grids = list(dict.fromkeys(phase.grid for phase in preparation.phases))
            lengths, every = preparation.batching.lengths, self.data.train
            self.found.images = self.check(
                "image tokens", audit_image_tokens, every, lengths, encoder, grids
            )

    def over_model(self, model: Any, preparation: Preparation) -> None:
        """The tower's rows, the largest batches, the gradients."""
        packed, _ = self.check("packing", packing_for, self.config, model) or (False, "")
        preparation = repacked(preparation, packed, self.base, self.data)
        if packed:
            install_packed_attention(model)
        install_supervised_head(unwrapped(model))
        if self.config.train.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            drop_input_gradients(model)
        first = preparation.phases[0]
        seen = next((sample for sample in self._some(first) if sample.images), None)
        if seen is not None:
            encoder, name = preparation.encoder, "features of the tower"
            self.check(name, audit_tower, model, seen, encoder, first.grid)
        for phase in preparation.phases:
            name = f"largest batch of phase {phase.name}"
            self.check(name, self._batch, model, preparation, phase)
        for phase in of_different_parts(preparation.phases):
            name = f"gradients of phase {phase.name}"
            self.check(name, self._gradients, model, preparation, phase)

    def _batch(self, model: Any, preparation: Preparation, phase: Phase) -> None:
        plan = preparation.plan(phase)
        batch = self._collator(model, preparation, phase)(plan.batches[plan.largest])
        audit_batch(batch, preparation.encoder, f"phase {phase.name}")

    def _gradients(self, model: Any, preparation: Preparation, phase: Phase) -> None:
        """As the phase trains: its parts are open, and the census agrees."""
        open_parts(model, self.base.family, phase.unfreeze)
        before, config = self.found.census, self.config.train
        if before is not None:
            names = before.targets.names if before.targets else ()
            take_census(
                model, self.base.family, config, names, before.quantized_linears, phase.unfreeze
            )
        device = next(p for p in model.parameters() if p.requires_grad).device
        dtype = autocast_dtype(self.found.dtype)
        collator = self._collator(model, preparation, phase)
        self.found.gradients[phase.name] = audit_gradient_flow(
            model,
            [collator(row) for row in self._probe(preparation, phase)],
            TrialStep(model, self.base.family, config, dtype, device),
        )

    def _collator(self, model: Any, preparation: Preparation, phase: Phase) -> PhaseCollator:
        return PhaseCollator(
            self.data.train,
            preparation.encoder,
            self.config.train.loss.scope,
            phase.grid,
            phase=phase.number,
            positions=positions_for(model) if preparation.batching.packed else None,
        )

    def _probe(self, preparation: Preparation, phase: Phase) -> list[tuple[Row]]:
        """The shortest samples of the phase; where there are images, of those that have one."""
        lengths, grid = preparation.batching.lengths, phase.grid
        indices = sorted(set(phase.indices), key=lambda index: lengths.tokens(index, grid))
        seeing = [index for index in indices if lengths.image_tokens(index, grid)]
        return [(Row(index),) for index in (seeing or indices)[:PROBED_SAMPLES]]

    def _some(self, phase: Phase) -> list[Sample]:
        """Different samples, spread over the phase."""
        indices = list(dict.fromkeys(phase.indices))
        stride = -(-len(indices) // MASKED_SAMPLES)
        return [self.data.train[index] for index in indices[::stride]]


def _lenient(config: Config) -> Iterator[Config]:
    """Without the samples that are too long; where none is left, with them."""
    data = config.data.model_copy(update={"on_bad_sample": "skip"})
    for length in (config.train.max_length, ANY_LENGTH):
        settings = {"on_empty_phase": "widen", "max_length": length}
        train = config.train.model_copy(update=settings)
        yield config.model_copy(update={"data": data, "train": train})


def _texts(check: Check) -> Sequence[str]:
    return (check.fault or "", *check.problems)
