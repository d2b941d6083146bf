"""Task metrics in processes of their own: an answer is text that nobody vouches for.

A parser that crashes, hangs or eats memory over one answer ends a worker process, which is
replaced, and that answer alone goes without metrics. The engine does not wait for any of it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from vlmpipe.system.parenthood import die_with_parent, exit_cause, interrupts_held
from vlmpipe.tasks import task_of

TIMEOUT_S = 60.0
"""For one answer: hundreds of times what a page's table takes."""

MEMORY_BYTES = 4 << 30
"""A worker that asks for more gets none, and that answer goes unmeasured."""

NICENESS = 5
"""Engines come first where there are few cores."""

Measure = Callable[[str, str, str], dict[str, float]]
"""Task, prediction, reference to metrics: a function of a module, since other processes call it."""


@dataclass(frozen=True)
class Measured:
    """Metrics of one answer."""

    metrics: Mapping[str, float]
    unmeasured: str | None = None
    """Why there are none but the primary metric, which is 0 then."""


class MetricPool:
    """Worker processes that measure answers; close it, or use it in a `with` statement."""

    def __init__(
        self,
        workers: int | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        measure: Measure | None = None,
    ) -> None:
        """`workers` defaults to the cores at hand, four at most; `measure` to the task's own."""
        from pebble import ProcessPool

        self._timeout_s = timeout_s
        self._measure = measure or _measure
        with interrupts_held():
            self._pool: Any = ProcessPool(
                max_workers=workers or min(4, len(os.sched_getaffinity(0))),
                initializer=_begin_worker,
                # A forked child of a process with threads of torch or llama.cpp may never wake.
                context=multiprocessing.get_context("spawn"),
            )
            # The pool starts its threads, and they the workers, with the first task.
            self._pool.schedule(os.getpid)

    def submit(self, task: str, prediction: str, reference: str) -> Future[dict[str, float]]:
        """Measure in the background; `measured` makes a result of what it comes to."""
        future: Future[dict[str, float]] = self._pool.schedule(
            self._measure, args=[task, prediction, reference], timeout=self._timeout_s
        )
        return future

    def measure(self, task: str, prediction: str, reference: str) -> Measured:
        """Measure one answer and wait for it."""
        return self.measured(task, self.submit(task, prediction, reference))

    def measured(self, task: str, future: Future[dict[str, float]]) -> Measured:
        """What a submitted answer came to; waits for it."""
        from pebble import ProcessExpired

        try:
            return Measured(future.result())
        except TimeoutError:
            why = f"measuring it took more than {self._timeout_s:g} s"
        except ProcessExpired as exc:
            why = f"measuring it ended the process ({exit_cause(exc.exitcode)})"
        except CancelledError:
            raise
        except Exception as exc:
            why = f"measuring it failed: {type(exc).__name__}: {str(exc)[:200]}"
        return Measured({task_of(task).primary_metric: 0.0}, why)

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        self._pool.stop()
        self._pool.join()

    def __enter__(self) -> MetricPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _begin_worker() -> None:
    die_with_parent()
    os.nice(NICENESS)
    # Data, not address space: Node reserves hundreds of gigabytes that it never uses.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, resource.RLIM_INFINITY))


def _measure(task: str, prediction: str, reference: str) -> dict[str, float]:
    return dict(task_of(task).measure(prediction, reference))
