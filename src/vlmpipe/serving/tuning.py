"""Threads and context length, chosen by measurement; every row measured is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.serving.trial import Measurement

Measure = Callable[[int, int], Measurement]
"""Threads and context length to what they come to."""

QUESTION_ROOM = 256
"""Tokens of text kept free beside the largest image."""

CONTEXT_STEP = 256
CONTEXT_FACTORS = (1, 2, 4)
MAX_SLOWDOWN = 1.1
"""A longer context is worth at most this much of an answer's time."""

MEMORY_SHARE = 0.8
THREAD_CANDIDATES = 4


@dataclass(frozen=True)
class Choice:
    """A value, why it was chosen, and what was measured for it."""

    value: int
    reason: str
    rows: tuple[Measurement, ...] = ()

    @property
    def as_record(self) -> dict[str, Any]:
        """For deploy.json."""
        return {
            "value": self.value,
            "reason": self.reason,
            "measured": [asdict(row) for row in self.rows],
        }


def thread_candidates(cores: int) -> list[int]:
    """Powers of two and the number of cores: the largest few."""
    powers = [2**power for power in range(cores.bit_length())]
    return sorted({*powers, cores})[-THREAD_CANDIDATES:]


def choose_threads(
    fixed: int | None, candidates: Iterable[int], measure: Measure, n_ctx: int
) -> Choice:
    """The number of threads with the quickest answer, unless one is `fixed`."""
    if fixed is not None:
        return Choice(fixed, "set by deploy.threads")
    rows = tuple(measure(threads, n_ctx) for threads in candidates)
    best = min(rows, key=lambda row: row.answer_seconds)
    return Choice(best.threads, f"quickest answer of {len(rows)} settings measured", rows)


def needed_context(contract: PreprocessContract, max_new_tokens: int) -> int:
    """Tokens for the data, or the largest image and a question, and the longest answer."""
    image = 0
    if contract.has_vision:
        largest = contract.max_image_tokens
        if contract.max_size is not None:
            box = contract.max_size[0] * contract.max_size[1]
            largest = min(largest, box // contract.grid.factor**2)
        image = largest + QUESTION_ROOM
    tokens = max(contract.context_length, image) + max_new_tokens
    return -(-tokens // CONTEXT_STEP) * CONTEXT_STEP


def choose_context(
    fixed: int | None, needed: int, trained: int, measure: Measure, threads: int, memory_mib: float
) -> Choice:
    """The longest context that costs next to no time and fits into memory, unless `fixed`.

    `trained` is the longest that the model knows; `memory_mib` what the machine has to spare.
    """
    if fixed is not None:
        return Choice(fixed, "set by deploy.context_length")
    lengths = sorted({min(needed * factor, max(trained, 1)) for factor in CONTEXT_FACTORS})
    rows = tuple(measure(threads, n_ctx) for n_ctx in lengths)
    fitting = _fitting(rows, memory_mib)
    if not fitting:
        return Choice(lengths[0], "the shortest that serves the data; none fits well", rows)
    return Choice(
        fitting[-1].n_ctx,
        f"longest of {len(rows)} within {MAX_SLOWDOWN:g}x of the shortest one's time and"
        f" {MEMORY_SHARE:.0%} of free memory",
        rows,
    )


def _fitting(rows: Sequence[Measurement], memory_mib: float) -> list[Measurement]:
    limit = MAX_SLOWDOWN * rows[0].answer_seconds
    return [
        row
        for row in rows
        if row is rows[0]
        or (row.answer_seconds <= limit and row.memory_mib <= MEMORY_SHARE * memory_mib)
    ]
