"""Processes and the ones that they start: interrupts, deaths, and what they died of."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PR_SET_PDEATHSIG = 1
"""prctl(2), of Linux alone."""


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Processes and threads started in here never see SIGINT: an interrupt reaches the whole group,
    and the one that started them decides what becomes of it. This one sees it when it leaves.
    """
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent dies, however it dies.

    Elsewhere than on Linux nothing happens:
    such a process ends when it next writes to its parent.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def exit_cause(exit_code: int | None) -> str:
    """`SIGSEGV`, or `exit code 1`: what multiprocessing says of a process that ended."""
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    with suppress(ValueError):
        return signal.Signals(-exit_code).name
    return f"signal {-exit_code}"
