"""Samples of one pass to micro-batches that keep a budget of tokens."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import NamedTuple

WINDOW_BATCHES = 64
"""Batches whose samples are sorted together: enough for rows of like length and well-filled packs,
few enough that a batch remains a random draw."""

BUCKETS_PER_OCTAVE = 8
"""Lengths in a bucket differ by 9 % at most: what padding may cost for the sake of alike images."""


class Entry(NamedTuple):
    """One place of a sample in a pass."""

    sample: int
    tokens: int
    """Text and image tokens."""

    aspect: float
    """Height by width of its largest image; 1 without one."""


def grouped_by_budget(order: Sequence[Entry], budget: int, *, packed: bool) -> list[list[Entry]]:
    """Batches of at most `budget` tokens, of entries that are near each other in `order`.

    Padded: number of rows times the longest; packed: the sum. An entry above the budget goes alone.
    """
    batches: list[list[Entry]] = []
    carried: list[Entry] = []
    for window in _windows(order, budget):
        made = (_packed if packed else _padded)([*carried, *window], budget)
        # The last one of a window is what was left over: it goes on into the next.
        carried = made.pop() if made else []
        batches += made
    return [*batches, carried] if carried else batches


def _windows(order: Sequence[Entry], budget: int) -> Iterator[Sequence[Entry]]:
    start, total = 0, 0
    for place, entry in enumerate(order):
        total += min(entry.tokens, budget)
        if total >= WINDOW_BATCHES * budget:
            yield order[start : place + 1]
            start, total = place + 1, 0
    yield order[start:]


def _padded(entries: Sequence[Entry], budget: int) -> list[list[Entry]]:
    """Longest first, so that the last batch, which is carried on, is of the shortest."""
    batches: list[list[Entry]] = []
    longest = 0
    for entry in sorted(entries, key=_bucket, reverse=True):
        longest = max(longest, entry.tokens) if batches else entry.tokens
        if batches and (len(batches[-1]) + 1) * longest <= budget:
            batches[-1].append(entry)
        else:
            batches.append([entry])
            longest = entry.tokens
    return batches


def _bucket(entry: Entry) -> tuple[int, int, int]:
    length = round(BUCKETS_PER_OCTAVE * math.log2(max(entry.tokens, 1)))
    return length, round(math.log2(entry.aspect)), entry.tokens


def _packed(entries: Sequence[Entry], budget: int) -> list[list[Entry]]:
    """Best fit decreasing: each entry, longest first, to the fullest batch that still holds it."""
    batches: list[list[Entry]] = []
    room: list[tuple[int, int]] = []
    for entry in sorted(entries, key=lambda each: each.tokens, reverse=True):
        place = bisect_left(room, (entry.tokens, -1))
        if place < len(room):
            free, number = room.pop(place)
        else:
            free, number = budget, len(batches)
            batches.append([])
        batches[number].append(entry)
        insort(room, (free - entry.tokens, number))
    return sorted(batches, key=lambda batch: -sum(entry.tokens for entry in batch))
