"""Each candidate is read and judged once; of the usable ones only what the split needs is kept."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from vlmpipe.data.problems import Candidate, SampleError
from vlmpipe.data.splitting import content_keys
from vlmpipe.encoding.conversation import Sample
from vlmpipe.tasks import task_of

log = logging.getLogger(__name__)

SampleCheck = Callable[[Sample], str | None]
"""Says what makes a sample unusable, or None."""


@dataclass(frozen=True)
class Accepted:
    """What is remembered of a usable sample."""

    keys: frozenset[str]
    task: str
    image_sizes: tuple[tuple[int, int], ...]
    """Width and height of each image."""

    source: int
    pinned: bool


class Auditor:
    """Judges candidates one by one and counts what it saw."""

    def __init__(
        self,
        *,
        generated: bool,
        wants_images: bool,
        check_sample: SampleCheck | None,
        apart: Collection[str] = (),
    ) -> None:
        self.accepted: list[Accepted] = []
        self.problems: list[str] = []
        """`file:line: what`, for each sample that cannot be used."""

        self.repeats = 0
        """Generated samples left out because one like them was there already."""

        self.withheld = 0
        """Samples left out because their content is among `apart`, which others are asked about."""

        self._apart = frozenset(apart)
        self._generated = generated
        self._wants_images = wants_images
        self._check = check_sample
        self._seen: set[tuple[frozenset[str], str]] = set()
        self._ids: Counter[str] = Counter()

    def usable(self, candidates: Iterable[Candidate]) -> Iterator[tuple[Sample, float]]:
        """Each usable sample with its weight; the others are added to `problems`."""
        for candidate in candidates:
            try:
                sample = self._judged(candidate)
            except SampleError as exc:
                self.problems.append(f"{candidate.origin}: {exc}")
                log.warning("bad sample %s", self.problems[-1])
                continue
            keys = content_keys(sample)
            if keys & self._apart:
                self.withheld += 1
                continue
            if self._generated and self._repeats(sample, keys):
                continue
            self._remember(sample, keys, candidate.source)
            yield self._with_own_id(sample), candidate.weight

    def _judged(self, candidate: Candidate) -> Sample:
        sample = candidate.load()
        if sample.images and not self._wants_images:
            raise SampleError("holds an image, and the model reads text only")
        fault = self._check(sample) if self._check else None
        if fault:
            raise SampleError(fault)
        return sample

    def _repeats(self, sample: Sample, keys: frozenset[str]) -> bool:
        mark = (keys, sample.reference)
        known = mark in self._seen
        self._seen.add(mark)
        self.repeats += known
        return known

    def _remember(self, sample: Sample, keys: frozenset[str], source: int) -> None:
        pinned = self._generated and sample.id in task_of(sample.task).always_trained
        sizes = tuple(image.size for image in sample.images)
        self.accepted.append(Accepted(keys, sample.task, sizes, source, pinned))

    def _with_own_id(self, sample: Sample) -> Sample:
        """An id that an earlier sample has is followed by a number."""
        self._ids[sample.id] += 1
        number = self._ids[sample.id]
        return sample if number == 1 else replace(sample, id=f"{sample.id}#{number}")
