"""Another attempt where a server's trouble may pass, after longer and longer waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock
from time import monotonic
from typing import TypeVar

from vlmpipe.errors import ToolError, VlmpipeError

DEAD_AFTER = 5
"""Attempts of one request, all refused: where the waits between them lie between a server's first
refusal and its last, nothing is waited for any more.
"""

BACKOFF_S = 0.5
MAX_BACKOFF_S = 8.0
MAX_DOUBLINGS = 20
MAX_WAIT_S = 60.0
"""The longest that a server's own `Retry-After` is obeyed."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Fault:
    """One failed attempt."""

    error: VlmpipeError
    passing: bool = False
    """Whether another attempt may end otherwise."""

    wait_s: float | None = None
    """How long the server wants to be left alone."""

    unreachable: bool = False
    """Nothing listens there."""


class Patience:
    """With one server, over all of its requests; for use from several threads."""

    def __init__(
        self, retries: int, *, backoff_s: float = BACKOFF_S, given_up: Event | None = None
    ) -> None:
        """`backoff_s` is doubled after each attempt; `given_up` ends all waiting."""
        self._retries = retries
        self._backoff_s = backoff_s
        self._given_up = given_up or Event()
        self._dead_after_s = sum(self._backoff(number) for number in range(DEAD_AFTER - 1))
        self._lock = Lock()
        self._refused = 0
        self._refused_since = 0.0

    def persist(
        self, attempt: Callable[[], _T], fault_of: Callable[[Exception], Fault | None]
    ) -> _T:
        """Do it, and again where a fault may pass, when the server says so or else after a while.
        A server that has refused every connection for long enough is tried once and not waited for.

        `fault_of` tells what an exception means; None for one that is none of the server's.

        Raises:
            VlmpipeError: the last attempt's.
        """
        for number in range(self._retries + 1):
            try:
                result = attempt()
            except Exception as exc:
                fault = fault_of(exc)
                if fault is None:
                    raise
                dead = self._note(fault.unreachable)
                if not fault.passing or dead or number == self._retries:
                    raise fault.error from fault.error.__cause__ or exc
                self._wait(fault, number)
            else:
                self._note(unreachable=False)
                return result
        raise AssertionError("the last attempt returns or raises")

    def _backoff(self, number: int) -> float:
        return min(self._backoff_s * 2.0 ** min(number, MAX_DOUBLINGS), MAX_BACKOFF_S)

    def _wait(self, fault: Fault, number: int) -> None:
        told_s = fault.wait_s
        wait_s = self._backoff(number) if told_s is None else min(told_s, MAX_WAIT_S)
        if self._given_up.wait(wait_s):
            raise ToolError("the request was given up") from fault.error

    def _note(self, unreachable: bool) -> bool:
        """Whether the server counts as dead now.

        Several threads soon gather as many refusals as one request alone meets in all its waits,
        so a server must also have had that time to come back.
        """
        with self._lock:
            if not unreachable:
                self._refused = 0
                return False
            now = monotonic()
            if self._refused == 0:
                self._refused_since = now
            self._refused += 1
            gone_s = now - self._refused_since
            return self._refused >= DEAD_AFTER and gone_s >= self._dead_after_s
