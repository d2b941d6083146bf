"""Peak memory of a stretch of work: the device's where there is one, else this process's."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path
from typing import Any

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"
"""What proc(5) asks for to set VmHWM back to what is resident now."""


def reset_peak_memory() -> None:
    """Begin a new measurement; what this process used before no longer counts."""
    torch = _cuda()
    if torch is not None:
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")


def peak_memory_mib() -> float:
    """Most memory held since `reset_peak_memory`, in MiB: allocated on the GPU, or resident."""
    torch = _cuda()
    if torch is not None:
        return float(torch.cuda.max_memory_allocated()) / 2**20
    return _peak_resident_kib() / 2**10


def _peak_resident_kib() -> float:
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _cuda() -> Any:
    """The torch module where it was imported and sees a GPU."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None
