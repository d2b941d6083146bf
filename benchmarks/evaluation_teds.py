"""TEDS of many pairs of tables: ours on two cores against table-recognition-metric in one process.

Both score the same pairs in alternating runs, the right answers apart from the wrong ones. Workers
are started and libraries imported before; parsing the HTML is measured on both sides.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from evaluation_figures import Figure, figure
from table_pairs import Pair, table_pairs

CORES = 2
SEED = 20
Scorer = Callable[[Sequence[Pair]], list[float]]
Seconds = dict[tuple[str, str], list[float]]
"""By side and kind of answer, one for each round."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of the part `teds`."""
    pairs = table_pairs(options.pairs, SEED)
    kinds = {
        "wrong": [pair for pair in pairs if pair.faults],
        "right": [pair for pair in pairs if not pair.faults],
    }
    seconds: Seconds = {}
    difference = 0.0
    with _two_processes() as ours_on_two:
        sides = {"package": _package, "one": _ours, "two": ours_on_two}
        for _ in range(options.rounds):
            for kind, each in kinds.items():
                scores = {side: _timed(sides[side], each, seconds, side, kind) for side in sides}
                difference = max(difference, _difference(scores))
    return {"figures": _figures(seconds, difference, kinds), "workload": _workload(pairs)}


def _ours(pairs: Sequence[Pair]) -> list[float]:
    return [_our_score(pair) for pair in pairs]


def _our_score(pair: Pair) -> float:
    from vlmpipe.tasks.teds import teds

    return teds(pair.prediction, pair.reference)


def _package(pairs: Sequence[Pair]) -> list[float]:
    """Of table-recognition-metric, which falls below zero where ours stays at it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from table_recognition_metric import TEDS
    score = TEDS()
    return [max(0.0, score(pair.prediction, pair.reference)) for pair in pairs]


@contextmanager
def _two_processes() -> Iterator[Scorer]:
    with ProcessPoolExecutor(CORES) as pool:
        yield lambda pairs: list(pool.map(_our_score, pairs, chunksize=8))


def _timed(scorer: Scorer, pairs: Sequence[Pair], seconds: Seconds, *key: str) -> list[float]:
    scorer(pairs[:16])
    start = time.perf_counter()
    scores = scorer(pairs)
    seconds.setdefault((key[0], key[1]), []).append(time.perf_counter() - start)
    print(
        f"{key[0]}, {len(pairs)} {key[1]} answers: {seconds[key[0], key[1]][-1]:.2f} s", flush=True
    )
    return scores


def _difference(scores: dict[str, list[float]]) -> float:
    """Largest, between our scores and the package's."""
    ours, theirs = (scores["one"] + scores["two"], scores["package"] * 2)
    return max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _figures(
    seconds: Seconds, difference: float, kinds: dict[str, list[Pair]]
) -> dict[str, Figure]:
    def ratio(side: str, *counted: str, goal: float | None = None) -> Figure:
        theirs, ours = _sums(seconds, "package", counted), _sums(seconds, side, counted)
        rounds = [a / b for a, b in zip(theirs, ours, strict=True)]
        value = statistics.median(theirs) / statistics.median(ours)
        return figure(value, "× the package's", goal=goal, spread=rounds)

    def each_pair(side: str) -> Figure:
        count = sum(map(len, kinds.values()))
        times = [1000 * total / count for total in _sums(seconds, side, list(kinds))]
        return figure(statistics.median(times), "ms", spread=times)

    return {
        "TEDS a second, two cores": ratio("two", "wrong", "right", goal=3.0),
        "TEDS a second, two cores, wrong answers only": ratio("two", "wrong", goal=3.0),
        "TEDS a second, one process": ratio("one", "wrong", "right"),
        "TEDS a second, one process, wrong answers only": ratio("one", "wrong"),
        "largest difference of two scores": figure(difference, "", goal=1e-9, bound="at most"),
        "a pair, package": each_pair("package"),
        "a pair, ours in one process": each_pair("one"),
        "a pair, ours on two cores": each_pair("two"),
    }


def _sums(seconds: Seconds, side: str, kinds: Sequence[str]) -> list[float]:
    """Of each round."""
    return [sum(parts) for parts in zip(*(seconds[side, kind] for kind in kinds), strict=True)]


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
