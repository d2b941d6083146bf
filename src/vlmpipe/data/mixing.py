"""General samples mixed into the training against forgetting, in a file of their own.

The split `train` stays what the run is about: its samples are asked back, counted by task and
calibrated on. What is mixed in is trained on and nothing else, see `store.load_training`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.data.audit import Accepted, Auditor, SampleCheck
from vlmpipe.data.general import endless_samples, files_alone, probe_keys
from vlmpipe.data.problems import Candidate
from vlmpipe.data.rows import ROWS_PER_GROUP, features, to_row, write_parquet
from vlmpipe.data.sources import candidates
from vlmpipe.data.store import GENERAL_NAME, SplitSamples
from vlmpipe.encoding.conversation import Sample

SEED_OFFSET = 1 << 32
"""Added to the run's seed, which is below it: never the probe's, nor the run's own."""

TRIES = 20
"""Generated samples looked at for each that is wanted: a kind may have few that differ."""


@dataclass(frozen=True)
class GeneralFacts:
    """What was mixed in; part of data.json."""

    ratio: float
    """As asked for."""

    share: float
    """Of what an epoch sees, source weights counted."""

    samples: int
    kinds: dict[str, int]
    repeated: float
    """How often each general sample is seen for once that a training sample is; above 1 where there
    are too few of them."""

    withheld: int
    """Left out because validate's general probe asks for them, or they are held out."""

    @property
    def notes(self) -> Iterator[str]:
        """Lines for the person who watches."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        yield f"{self.samples} general samples mixed into the training ({self.share:.1%}): {kinds}"
        if self.repeated > 1:
            yield (
                f"there are too few general samples for data.general_ratio={self.ratio:g}: each is"
                f" seen {self.repeated:.1f} times for once that a training sample is"
            )
        if self.withheld:
            yield (
                f"{self.withheld} general samples left out: they are held out, or validate's"
                " general probe asks for them"
            )


@dataclass
class GeneralMix:
    """Draws general samples for a training, and writes them beside its split.

    Each takes difficulty and weight of a training sample, spread evenly over those: whatever range
    of difficulty a phase takes, its share of general samples is the same.
    """

    config: Config
    wanted: int
    trained: frozenset[str]
    """Tasks of the training samples."""

    wants_images: bool
    auditor: Auditor
    spool: Path
    """Where drawn samples lie until they are written."""

    factors: list[float] = field(default_factory=list)
    """Weight of each drawn sample's own source."""

    @classmethod
    def of(
        cls,
        config: Config,
        train: Sequence[Accepted],
        heldout: Sequence[Accepted],
        check_sample: SampleCheck | None,
        *,
        wants_images: bool,
        spool: Path,
    ) -> GeneralMix:
        """For these splits; what is held out, and what the general probe asks, is left out."""
        ratio, trained = config.data.general_ratio, frozenset(each.task for each in train)
        apart = probe_keys(config, trained, has_vision=wants_images)
        return cls(
            config=config,
            wanted=max(1, round(len(train) * ratio / (1 - ratio))),
            trained=trained,
            wants_images=wants_images,
            auditor=Auditor(
                generated=not config.data.general_sources,
                wants_images=wants_images,
                check_sample=check_sample,
                apart=apart.union(*(each.keys for each in heldout)),
            ),
            spool=spool,
        )

    @property
    def problems(self) -> Sequence[str]:
        """`data.general_sources: file:line: what`; a generated sample that the model cannot take is
        no one's fault.
        """
        if not self.config.data.general_sources:
            return ()
        return [f"data.general_sources: {each}" for each in self.auditor.problems]

    def fill(self) -> None:
        """Draw and audit the samples, a few in memory at a time."""
        from datasets.arrow_writer import ArrowWriter

        drawn = self._from_files() if self.config.data.general_sources else self._made()
        with ArrowWriter(
            path=str(self.spool), features=features(), writer_batch_size=ROWS_PER_GROUP
        ) as writer:
            for sample, weight in islice(drawn, self.wanted):
                self.factors.append(weight)
                writer.write(to_row(replace(sample, id=f"general/{sample.id}"), weight))
            writer.finalize()

    def write(self, folder: Path, train: SplitSamples) -> GeneralFacts:
        """`general.parquet` of what was drawn, by lot over the difficulties of `train`."""
        from datasets import Dataset

        count = len(self.factors)
        partners = _spread(train, count)
        order = sorted(range(count), key=_lot(self.config.run.seed))
        weights = train.column("weight")
        repeated = self.wanted / count
        mean = sum(self.factors) / count
        taken = [
            weights[partner] * repeated * self.factors[place] / mean
            for place, partner in zip(order, partners, strict=True)
        ]
        difficulties = train.column("difficulty")
        rows = Dataset.from_file(str(self.spool)).select(order)
        rows = rows.remove_columns(["difficulty", "weight"])
        rows = rows.add_column("difficulty", [difficulties[partner] for partner in partners])
        rows = rows.add_column("weight", taken)
        write_parquet(rows, folder / GENERAL_NAME)
        return GeneralFacts(
            ratio=self.config.data.general_ratio,
            share=sum(taken) / (sum(taken) + sum(weights)),
            samples=count,
            kinds=dict(sorted(Counter(each.task for each in self.auditor.accepted).items())),
            repeated=repeated,
            withheld=self.auditor.withheld,
        )

    def _made(self) -> Iterator[tuple[Sample, float]]:
        seed = self.config.run.seed + SEED_OFFSET
        every = endless_samples(self.trained, has_vision=self.wants_images, seed=seed)
        tries = (
            Candidate(
                f"general {sample.id}", _given(replace(sample, origin=f"general {sample.id}"))
            )
            for sample in islice(every, TRIES * self.wanted)
        )
        return self.auditor.usable(tries)

    def _from_files(self) -> Iterator[tuple[Sample, float]]:
        """Samples drawn by lot from all lines; others are read only in place of ones left out."""
        alone = files_alone(self.config, self.config.data.general_sources)
        lines = sum(1 for _ in candidates(alone))
        order = sorted(range(lines), key=_lot(self.config.run.seed))
        missing = self.wanted
        while order and missing:
            drawn, order = set(order[:missing]), order[missing:]
            every = enumerate(candidates(alone))
            for found in self.auditor.usable(each for place, each in every if place in drawn):
                missing -= 1
                yield found


def _given(sample: Sample) -> Callable[[], Sample]:
    return lambda: sample


def _lot(seed: int) -> Callable[[int], str]:
    """A rank for each position: by seed, never by chance."""
    return lambda place: hashlib.sha256(f"general {seed} {place}".encode()).hexdigest()


def _spread(train: SplitSamples, count: int) -> Sequence[int]:
    """Positions of `count` training samples, evenly over them in the order of difficulty."""
    difficulties: list[Any] = train.column("difficulty")
    ordered = sorted(range(len(difficulties)), key=difficulties.__getitem__)
    return [ordered[(2 * place + 1) * len(ordered) // (2 * count)] for place in range(count)]
