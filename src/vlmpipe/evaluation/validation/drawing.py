"""Which samples of a split are asked, where not all of them are."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from vlmpipe.data.store import SplitSamples
from vlmpipe.encoding.conversation import Sample

SEED = 7
"""Not a run's own: another seed must not ask another thing of the same data."""


def drawn_samples(split: SplitSamples, count: int) -> list[Sample]:
    """`count` samples of a split, or all; only what is drawn has its images read."""
    ids, tasks = split.column("id"), split.column("task")
    positions = drawn([str(each) for each in ids], [str(each) for each in tasks], count)
    # In the order of the file: its groups of rows are decoded whole, one at a time.
    read = {position: split[position] for position in sorted(positions)}
    return [read[position] for position in positions]


def drawn(ids: Sequence[str], tasks: Sequence[str], count: int) -> list[int]:
    """Positions of `count` samples by a hash of their ids, each task its share and at least one.

    Tasks take turns, so that any first few are shared as the whole is: seats are given by the
    highest quotient of Sainte-Laguë, size / (2 taken + 1). With fewer seats than tasks the largest
    tasks have them.
    """
    sizes = Counter(sorted(tasks))
    ranked = sorted(range(len(ids)), key=lambda place: (_rank(ids[place]), place))
    waiting = {task: [place for place in ranked if tasks[place] == task] for task in sizes}
    taken: Counter[str] = Counter()
    found = []
    for _ in range(min(count, len(ids))):
        left = [task for task in sizes if taken[task] < sizes[task]]
        task = max(left, key=lambda each: (not taken[each], sizes[each] / (2 * taken[each] + 1)))
        found.append(waiting[task][taken[task]])
        taken[task] += 1
    return found


def _rank(sample: str) -> str:
    return hashlib.sha256(f"{SEED}:{sample}".encode("utf-8", "surrogatepass")).hexdigest()
