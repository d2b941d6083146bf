"""What a training decides before its model is loaded: contract, lengths, phases, batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlmpipe.config import Config
from vlmpipe.data.store import column_of, load_split, load_training
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.loading import load_tokenizer
from vlmpipe.pipeline.files import sha256_of
from vlmpipe.pipeline.fingerprint import fingerprint_of
from vlmpipe.training.audits.lengths import (
    LengthAudit,
    LengthLimit,
    fit_lengths,
    length_limit,
    position_limit,
)
from vlmpipe.training.batching.lengths import SampleLengths
from vlmpipe.training.batching.plan import BatchPlan, BatchRule, plan_batches
from vlmpipe.training.curriculum import Phase, plan_phases
from vlmpipe.training.limits import contract_for, limits_contract


@dataclass(frozen=True)
class TrainingData:
    """What setup prepared; `weights` is parallel to `train`."""

    train: Sequence[Sample]
    heldout: Sequence[Sample]
    weights: Sequence[float]
    digest: str | None = None
    """sha256 over the prepared data; without it no phase of an earlier training is taken over."""


def training_data(setup: Path) -> TrainingData:
    """What a `setup` version's folder holds, general samples among the training ones."""
    samples = load_training(setup / "data")
    return TrainingData(
        train=samples,
        heldout=load_split(setup / "data", "heldout"),
        weights=samples.column("weight"),
        digest=data_digest(setup / "data"),
    )


def data_digest(folder: Path) -> str:
    """sha256 over prepared data: names and contents of its parquet files."""
    files = sorted(folder.glob("*.parquet"))
    return fingerprint_of({path.name: sha256_of(path) for path in files})


@dataclass(frozen=True)
class Batching:
    """How samples go into micro-batches, the same in every process."""

    config: Config
    lengths: SampleLengths
    limit: LengthLimit
    packed: bool
    processes: int

    @property
    def rule(self) -> BatchRule:
        """What goes into a micro-batch."""
        train = self.config.train
        return BatchRule(train.batch_size, train.batch_tokens, self.packed)

    def plan(
        self,
        indices: Sequence[int],
        grid: ImageGrid,
        number: int,
        *,
        steps: int | None = None,
        epochs: float | None = None,
    ) -> BatchPlan:
        """Micro-batches of phase `number` over these samples."""
        return plan_batches(
            indices,
            [self.lengths.tokens(index, grid) for index in indices],
            [self.lengths.aspect(index) for index in indices],
            rule=self.rule,
            accumulation=self.config.train.gradient_accumulation,
            processes=self.processes,
            seed=self.config.run.seed + number,
            steps=steps,
            epochs=epochs,
        )

    def steps(self, indices: Sequence[int], grid: ImageGrid, epochs: float, number: int) -> int:
        """Optimiser steps that phase `number` takes for so many passes over those of these samples
        that are not too long for it.
        """
        kept = self.limit.kept(indices, self.lengths, grid)
        return self.plan(kept or indices, grid, number, epochs=epochs).steps

    def of(self, phase: Phase) -> BatchPlan:
        """The plan of a phase."""
        return self.plan(phase.indices, phase.grid, phase.number, steps=phase.steps)


@dataclass(frozen=True)
class Preparation:
    """All of it."""

    encoder: Encoder
    batching: Batching
    phases: tuple[Phase, ...]
    length_audit: LengthAudit
    _plans: dict[int, BatchPlan] = field(default_factory=dict, compare=False)

    def plan(self, phase: Phase) -> BatchPlan:
        """Every micro-batch of a phase; planned once, about a second for 100,000 samples."""
        if phase.number not in self._plans:
            self._plans[phase.number] = self.batching.of(phase)
        return self._plans[phase.number]


def prepare(
    config: Config, base: BaseModelFolder, data: TrainingData, processes: int
) -> Preparation:
    """Decide it all, taking for granted that samples can be packed where that is asked for.

    Raises:
        StageError: for phases that cannot be.
        BadSamplesError: for samples that are too long.
    """
    tokenizer = load_tokenizer(base.folder)
    measuring = Encoder(tokenizer, limits_contract(config, base.family, 0))
    lengths = SampleLengths.measure(data.train, measuring)
    heldout = SampleLengths.measure(data.heldout, measuring)
    contract = contract_for(config, base.family, tokenizer, lengths, heldout)
    limit = length_limit(config, position_limit(base.folder))
    batching = Batching(config, lengths, limit, config.train.packing != "off", processes)
    return _with_phases(batching, Encoder(tokenizer, contract), base, data)


def repacked(
    preparation: Preparation, packed: bool, base: BaseModelFolder, data: TrainingData
) -> Preparation:
    """The same, once it is known whether the model's attention keeps packed samples apart."""
    batching = preparation.batching
    if batching.packed == packed:
        return preparation
    changed = replace(batching, packed=packed)
    return _with_phases(changed, preparation.encoder, base, data)


def _with_phases(
    batching: Batching, encoder: Encoder, base: BaseModelFolder, data: TrainingData
) -> Preparation:
    phases = plan_phases(
        batching.config.train,
        column_of(data.train, "difficulty"),
        data.weights,
        encoder.contract.grid,
        has_vision=base.family.has_vision,
        steps_for_epochs=batching.steps,
    )
    fitting, audit = fit_lengths(
        phases, data.train, batching.lengths, batching.config, batching.limit
    )
    return Preparation(encoder, batching, tuple(fitting), audit)
