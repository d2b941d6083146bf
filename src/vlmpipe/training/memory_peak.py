"""The most memory that a piece of work held at once, measured while it ran."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_HIGH_WATER_MARK = "5"
"""man 5 proc_pid_clear_refs; needs CONFIG_PROC_PAGE_MONITOR, which gVisor and macOS lack."""

_SAMPLED_EVERY_S = 0.002


@dataclass
class MemoryPeak:
    """What `peak_memory` found; 0 until its block has ended."""

    bytes: int = 0
    """Held at the highest moment, over what was held when the block began."""


@contextmanager
def peak_memory(device: Any) -> Iterator[MemoryPeak]:
    """Measure the block's peak on a device (`torch.device` or its name); also when it raises.

    On CUDA by the allocator's own count, whose peak it resets. On a CPU by the kernel's high-water
    mark of resident memory, which sees scratch memory of oneDNN too, to the page; everything else
    that the process does meanwhile counts as well. Blocks must not be nested: the inner one resets
    the outer one's mark.
    """
    import torch

    peak = MemoryPeak()
    measured = _on_cuda if torch.device(device).type == "cuda" else _in_ram
    with measured(peak, device):
        yield peak


@contextmanager
def _on_cuda(peak: MemoryPeak, device: Any) -> Iterator[None]:
    import torch

    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        yield
    finally:
        # After a failure of CUDA itself nothing can be waited for, and its error is the one to see.
        with suppress(RuntimeError):
            torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before


@contextmanager
def _in_ram(peak: MemoryPeak, _device: Any) -> Iterator[None]:
    _return_freed_memory()
    if _reset_high_water_mark():
        before = _status_bytes("VmRSS")
        try:
            yield
        finally:
            peak.bytes = max(0, _status_bytes("VmHWM") - before)
        return
    with _sampled(peak):
        yield


def _return_freed_memory() -> None:
    """Give glibc's free pages back: a block that reuses them would seem to need nothing."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another libc has no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def _reset_high_water_mark() -> bool:
    try:
        _CLEAR_REFS.write_text(_RESET_HIGH_WATER_MARK)
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


@contextmanager
def _sampled(peak: MemoryPeak) -> Iterator[None]:
    """Where the kernel keeps no mark that can be reset: look every few milliseconds."""
    import psutil

    process = psutil.Process()
    before, ended = process.memory_info().rss, threading.Event()

    def look() -> None:
        while True:
            peak.bytes = max(peak.bytes, process.memory_info().rss - before)
            if ended.wait(_SAMPLED_EVERY_S):
                return

    watcher = threading.Thread(target=look, name="memory-peak", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
