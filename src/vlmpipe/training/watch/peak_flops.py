"""What a device can do at most: measured by a matrix product, not taken from a table."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

SIDES = {"cuda": 8192, "cpu": 1024}
"""Of the square matrices: large enough that the product is bound by arithmetic."""

SECONDS = 0.25
"""For all repetitions together."""

LEAST_REPEATS = 3


@cache
def peak_flops(device: str, dtype: str) -> float:
    """FLOP/s of a matrix product in a precision, the best of several; once in a process.

    2 n^3 FLOPs for two [n, n] matrices. Draws from a generator of its own: the training's random
    numbers stay what they were. `device` and `dtype` are torch's names, `cuda:0` and `bfloat16`.
    """
    import torch

    side = SIDES.get(torch.device(device).type, SIDES["cpu"])
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(side, side, device=device, generator=generator).to(getattr(torch, dtype))
        for _ in range(2)
    )
    best, begun, repeats = float("inf"), time.perf_counter(), 0
    while repeats < LEAST_REPEATS or time.perf_counter() - begun < SECONDS:
        best = min(best, _seconds(left, right))
        repeats += 1
    return 2.0 * side**3 / best


def _seconds(left: Any, right: Any) -> float:
    _finish(left.device)
    begun = time.perf_counter()
    left @ right
    _finish(left.device)
    return time.perf_counter() - begun


def _finish(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
