"""Memory of the device a model trains on: what is free, what the optimiser will take of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlmpipe.config.train import TrainConfig

STATE_BYTES = {"adamw_torch": 8, "adamw_8bit": 2, "paged_adamw_8bit": 0}
"""Bytes of optimiser state for each trained number: two moments in fp32, or in 8 bits; paged ones
go to RAM when the GPU is full."""

CGROUP = Path("/sys/fs/cgroup")
NO_ROOM = (
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What torch's CPU allocator and CUDA's libraries say in plain RuntimeErrors."""

Room = Callable[[], int]
"""Bytes that are free for a step now."""


def room_of(device: Any) -> Room:
    """A function that says how many bytes a step may take on a device."""
    import torch

    return _cuda_room(device) if torch.device(device).type == "cuda" else _ram_room


def optimizer_bytes(model: Any, config: TrainConfig) -> int:
    """Memory that the first update will take for good: the optimiser's state."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained * STATE_BYTES[config.optimizer]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a step failed for want of memory."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in NO_ROOM)


def _cuda_room(device: Any) -> Room:
    import torch

    def room() -> int:
        free, _ = torch.cuda.mem_get_info(device)
        # What the allocator holds and nobody uses is free to a step too.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)

    return room


def _ram_room() -> int:
    import psutil

    return min(int(psutil.virtual_memory().available), _cgroup_room())


def _cgroup_room() -> int:
    """What a container's limit leaves; its file cache is given up when memory is short."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        stat = (CGROUP / "memory.stat").read_text().split()
    except (OSError, ValueError):
        return 2**63
    if not limit.isdigit():
        return 2**63
    numbers = dict(zip(stat[::2], stat[1::2], strict=False))
    return max(0, int(limit) - used + int(numbers.get("inactive_file", 0)))
