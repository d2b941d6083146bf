"""Settings under which a phase fits, from the line through its measured steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlmpipe.config.train import TrainConfig
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.training.audits.smaller_grids import key_for, smaller_grids
from vlmpipe.training.dry_run.cases import Load, PhaseCase
from vlmpipe.training.dry_run.fit import MemoryFit

TOKENS_STEP = 64
"""`train.batch_tokens` is proposed in multiples of this, which is also its smallest value."""


@dataclass(frozen=True)
class Proposal:
    """What fits in one phase; None where a setting cannot do it, whatever its value."""

    phase: str
    batch: int | None
    """Largest `train.batch_tokens`, or `train.batch_size` where that is not set."""

    tokens: int | None
    """Largest `train.batch_tokens` in any case."""

    grid: ImageGrid | None
    """Largest image size for micro-batches as they are configured."""

    both: tuple[int, ImageGrid] | None
    """Where none of them does it alone: a small batch, as in `batch`, and the largest image size
    for it."""


@dataclass(frozen=True)
class Bounds:
    """What a phase's micro-batches may take, and how that is foretold."""

    case: PhaseCase
    fit: MemoryFit
    limit: float

    def propose(self) -> Proposal:
        """The largest settings that stay within the limit, whichever samples meet in a batch."""
        grid, rule = self.case.phase.grid, self.case.rule
        tokens = self._most_tokens(grid)
        batch = tokens if rule.batch_tokens is not None else self._most_samples(grid)
        smaller = self._largest_grid()
        return Proposal(
            phase=self.case.phase.name,
            batch=batch,
            tokens=tokens,
            grid=smaller,
            both=self._both() if batch is None and smaller is None else None,
        )

    def _most_samples(self, grid: ImageGrid) -> int | None:
        sizes = range(self.case.rule.batch_size - 1, 0, -1)
        return next((size for size in sizes if self._hold(self._of_samples(grid, size))), None)

    def _most_tokens(self, grid: ImageGrid) -> int | None:
        """None where the longest sample is longer: it would go alone, and not fit."""
        places = self.fit.places_within(self.limit, image_share(self.case, grid))
        if self.case.rule.batch_tokens is not None:
            places = min(places, self.case.rule.batch_tokens - 1)
        tokens = places // TOKENS_STEP * TOKENS_STEP
        return tokens if tokens >= self._of_samples(grid, 1).places else None

    def _largest_grid(self) -> ImageGrid | None:
        grids = smaller_grids(self.case.phase.grid)
        return next((grid for grid in grids if self._hold(self._as_configured(grid))), None)

    def _both(self) -> tuple[int, ImageGrid] | None:
        for grid in smaller_grids(self.case.phase.grid):
            if self.case.rule.batch_tokens is None and self._hold(self._of_samples(grid, 1)):
                return 1, grid
            tokens = self._most_tokens(grid)
            if self.case.rule.batch_tokens is not None and tokens is not None:
                return tokens, grid
        return None

    def _hold(self, load: Load) -> bool:
        return self.fit.predict(load) <= self.limit

    def _as_configured(self, grid: ImageGrid) -> Load:
        budget = self.case.rule.batch_tokens
        if budget is None:
            return self._of_samples(grid, self.case.rule.batch_size)
        places = max(budget, self._of_samples(grid, 1).places)
        return Load(1, places, math.ceil(places * image_share(self.case, grid)))

    def _of_samples(self, grid: ImageGrid, count: int) -> Load:
        """The most that so many samples of the phase can put on the device together."""
        lengths = self.case.lengths
        samples = [row.sample for row in self.case.rows]
        longest = sorted(samples, key=lambda each: -lengths.tokens(each, grid))[:count]
        images = sorted((lengths.image_tokens(each, grid) for each in samples), reverse=True)
        return Load(count, self.case.load_at(longest, grid).places, sum(images[:count]))


def image_share(case: PhaseCase, grid: ImageGrid) -> float:
    """Image tokens to all tokens, in the sample that has the highest share."""
    loads = [case.load_at([row.sample], grid) for row in case.rows]
    return max(load.image_tokens / load.places for load in loads)


def remedies(proposals: Sequence[Proposal], config: TrainConfig) -> Iterator[str]:
    """Ways out, each of which suffices by itself for all of these phases."""
    yield from _smaller_batch(proposals, config)
    if all(each.grid for each in proposals):
        yield "; ".join(key_for(each.grid, each.phase) for each in proposals if each.grid)
    yield from _smaller_batch_and_images(proposals, config)
    if not config.gradient_checkpointing:
        yield "train.gradient_checkpointing=true: far less memory, about a third more time"
    yield "a smaller model: model.id=ID" + (
        "" if config.method == "qlora" else ", or train.method=qlora"
    )


def _smaller_batch(proposals: Sequence[Proposal], config: TrainConfig) -> Iterator[str]:
    batches = [each.batch for each in proposals if each.batch]
    if len(batches) == len(proposals):
        yield _batch_key(min(batches), config)
    tokens = [each.tokens for each in proposals if each.tokens]
    by_samples = config.batch_tokens is None and config.batch_size > 1
    if by_samples and len(tokens) == len(proposals):
        yield f"train.batch_tokens={min(tokens)}, which takes short samples together"


def _smaller_batch_and_images(proposals: Sequence[Proposal], config: TrainConfig) -> Iterator[str]:
    """For phases of which some need a smaller batch, and some smaller images too."""
    sizes = [each.both[0] if each.both else each.batch for each in proposals]
    grids = [(each.both[1], each.phase) for each in proposals if each.both]
    known = [size for size in sizes if size]
    if grids and len(known) == len(proposals):
        keys = "; ".join(key_for(grid, phase) for grid, phase in grids)
        yield f"{_batch_key(min(known), config)}, and {keys}"


def _batch_key(size: int, config: TrainConfig) -> str:
    if config.batch_tokens is not None:
        return f"train.batch_tokens={size}"
    samples = config.batch_size * config.gradient_accumulation
    accumulation = math.ceil(samples / size)
    return f"train.batch_size={size} train.gradient_accumulation={accumulation}"
