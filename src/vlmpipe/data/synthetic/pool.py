"""Work on many cores, its results in the order in which it was given."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from vlmpipe.errors import StageError

AHEAD = 8
"""Pieces a worker that are under way or wait to be taken: memory holds no more of them."""

Result = TypeVar("Result")


def in_order(
    work: Callable[[int], Result], indexes: Iterable[int], workers: int
) -> Generator[Result, None, None]:
    """`work(index)` for each index, by that many processes (one: by this process).

    Raises:
        StageError: when a process is killed from outside. What `work` raises passes on.
    """
    if workers == 1:
        yield from map(work, indexes)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_prepare)
    try:
        yield from _results(pool, work, indexes, AHEAD * workers)
    except BrokenProcessPool as exc:
        raise StageError(
            "a worker process was killed, most often because memory ran out",
            "use fewer, and the same command goes on where it stopped: --workers 1",
        ) from exc
    finally:
        pool.shutdown(cancel_futures=True)


def _results(
    pool: ProcessPoolExecutor, work: Callable[[int], Result], indexes: Iterable[int], ahead: int
) -> Generator[Result, None, None]:
    waiting: deque[Future[Result]] = deque()
    for index in indexes:
        waiting.append(pool.submit(work, index))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _prepare() -> None:
    """Ctrl-C is the first process's to answer, and workers do not outlive it, however it dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
