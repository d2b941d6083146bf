"""TEDS of many pairs of tables: ours on two cores against table-recognition-metric in one process.

Lots of pairs go to one side after the other, so that what else the machine does falls on all alike;
right and wrong answers apart. Workers are started and libraries imported before; parsing the HTML
is measured on both sides.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from evaluation_figures import Figure, figure
from table_pairs import Pair, table_pairs

CORES = 2
SEED = 20
SIDES = ("package", "one", "two")
Scorer = Callable[[Sequence[Pair]], list[float]]


@dataclass(frozen=True)
class Lot:
    """Some pairs, with the seconds and the scores of each side."""

    right: bool
    seconds: dict[str, float] = field(default_factory=dict)
    processor_s: dict[str, float] = field(default_factory=dict)
    """Of the measuring process alone, so of no use for two."""

    scores: dict[str, list[float]] = field(default_factory=dict)

    @property
    def difference(self) -> float:
        """Largest, between our scores and the package's."""
        theirs = self.scores["package"] * 2
        ours = self.scores["one"] + self.scores["two"]
        return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of the part `teds`."""
    pairs = table_pairs(options.pairs, SEED)
    lots = []
    with _two_processes() as ours_on_two:
        scorers = dict(zip(SIDES, (_package, _ours, ours_on_two), strict=True))
        for scorer in scorers.values():
            scorer(pairs[:16])
        for right in (False, True):
            chosen = [pair for pair in pairs if bool(pair.faults) is not right]
            size = -(-len(chosen) // options.lots)
            for start in range(0, len(chosen), size):
                lots.append(_measured(scorers, chosen[start : start + size], right))
    return {"figures": _figures(lots, len(pairs)), "workload": _workload(pairs)}


def _measured(scorers: dict[str, Scorer], pairs: Sequence[Pair], right: bool) -> Lot:
    lot = Lot(right)
    for side, scorer in scorers.items():
        start, busy = time.perf_counter(), time.process_time()
        lot.scores[side] = scorer(pairs)
        lot.seconds[side] = time.perf_counter() - start
        lot.processor_s[side] = time.process_time() - busy
    taken = ", ".join(f"{side} {value:.2f} s" for side, value in lot.seconds.items())
    print(f"{len(pairs)} {'right' if right else 'wrong'} answers: {taken}", flush=True)
    return lot


def _ours(pairs: Sequence[Pair]) -> list[float]:
    return [_our_score(pair) for pair in pairs]


def _our_score(pair: Pair) -> float:
    from vlmpipe.tasks.teds import teds

    return teds(pair.prediction, pair.reference)


def _package(pairs: Sequence[Pair]) -> list[float]:
    """Scores of table-recognition-metric, which fall below zero where ours stay at it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from table_recognition_metric import TEDS
    score = TEDS()
    return [max(0.0, score(pair.prediction, pair.reference)) for pair in pairs]


@contextmanager
def _two_processes() -> Iterator[Scorer]:
    with ProcessPoolExecutor(CORES) as pool:
        yield lambda pairs: list(pool.map(_our_score, pairs, chunksize=8))


def _figures(lots: Sequence[Lot], pairs: int) -> dict[str, Figure]:
    wrong = [lot for lot in lots if not lot.right]
    difference = max(lot.difference for lot in lots)
    return {
        "TEDS a second, two cores": _speed("two", lots, goal=3.0),
        "TEDS a second, two cores, wrong answers only": _speed("two", wrong, goal=3.0),
        "TEDS a second, one process": _speed("one", lots),
        "TEDS a second, one process, wrong answers only": _speed("one", wrong),
        "TEDS a second of processor time": _processor_speed(lots),
        "TEDS a second of processor time, wrong answers only": _processor_speed(wrong),
        "largest difference of two scores": figure(difference, "", goal=1e-9, bound="at most"),
        **{
            f"a pair, {name}": figure(1000 * _total(lots, side) / pairs, "ms")
            for side, name in zip(SIDES, ("package", "ours in one", "ours on two"), strict=True)
        },
    }


def _speed(side: str, lots: Sequence[Lot], goal: float | None = None) -> Figure:
    """All pairs a second against the package's, and the same of single lots."""
    value = _total(lots, "package") / _total(lots, side)
    spread = [lot.seconds["package"] / lot.seconds[side] for lot in lots]
    return figure(value, "× the package's", goal=goal, spread=spread)


def _processor_speed(lots: Sequence[Lot]) -> Figure:
    """One process each; hardly depends on what else the machine does."""
    theirs = [lot.processor_s["package"] for lot in lots]
    ours = [lot.processor_s["one"] for lot in lots]
    spread = [a / b for a, b in zip(theirs, ours, strict=True)]
    return figure(sum(theirs) / sum(ours), "× the package's", spread=spread)


def _total(lots: Sequence[Lot], side: str) -> float:
    return sum(lot.seconds[side] for lot in lots)


def _workload(pairs: Sequence[Pair]) -> dict[str, Any]:
    cells = sorted(pair.cells for pair in pairs)
    return {
        "pairs": len(pairs),
        "right answers": sum(not pair.faults for pair in pairs),
        "pairs with each fault": dict(Counter(f for pair in pairs for f in set(pair.faults))),
        "cells of a reference (10 %, median, 90 %, most)": [
            cells[len(cells) // 10], cells[len(cells) // 2], cells[len(cells) * 9 // 10], cells[-1]
        ],
    }  # fmt: skip
