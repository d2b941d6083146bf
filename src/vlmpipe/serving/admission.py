"""Who may ask the engine: one at a time, a bounded number waiting, others told when to return."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vlmpipe.serving.problems import queue_full

_SMOOTHING = 0.3
"""Weight of the newest request in the mean duration that Retry-After is computed from."""


class Admission:
    """A queue of bounded length before an engine that answers one request at a time."""

    def __init__(self, max_queue: int) -> None:
        self._max_queue = max_queue
        self._turn = asyncio.Lock()
        self._mean_s = 1.0
        self.waiting = 0
        self.running = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the engine.

        Raises:
            ApiError: 429 with Retry-After when too many are waiting already.
        """
        if self._turn.locked() and self.waiting >= self._max_queue:
            raise queue_full(self.retry_after_s)
        self.waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        started = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self.running -= 1
            self._turn.release()
            spent = asyncio.get_running_loop().time() - started
            self._mean_s += _SMOOTHING * (spent - self._mean_s)

    @property
    def retry_after_s(self) -> int:
        """When half of those that wait now should have been answered."""
        return max(1, math.ceil(self._mean_s * (self.waiting + 1) / 2))
