"""Work on several things at once, in threads, with results in order and never far ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

AHEAD = 2
"""Things taken for each worker: one slow thing does not keep the other workers waiting."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def in_order(work: Callable[[_In], _Out], things: Iterable[_In], workers: int) -> Iterator[_Out]:
    """`work` of each thing, `workers` of them at a time, in the order of the things.

    At most `AHEAD` things a worker are taken whose results were not asked for. When the reader
    stops early, what has begun is waited for and nothing else is begun.
    """
    rest = iter(things)
    waiting: deque[Future[_Out]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="in-flight")
    try:
        for thing in islice(rest, AHEAD * workers):
            waiting.append(pool.submit(work, thing))
        while waiting:
            yield waiting.popleft().result()
            for thing in islice(rest, 1):
                waiting.append(pool.submit(work, thing))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
