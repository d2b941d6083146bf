"""Image sizes below a given one, from the next smaller down, and the key that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vlmpipe.encoding.images import ImageGrid

SMALLEST_SIDE = 64
"""Pixels; `train.curriculum` takes no smaller `max_size`."""


def smaller_grids(grid: ImageGrid) -> Iterator[ImageGrid]:
    """The same grid with ever smaller limits, the longer side by one image token a step."""
    if grid.max_size is None:
        yield from _fewer_pixels(grid)
        return
    longest = max(grid.max_size) // grid.factor
    for tokens in range(longest - 1, 0, -1):
        box = tuple(int(side * tokens / longest) // grid.factor * grid.factor for side in _on(grid))
        if min(box) < SMALLEST_SIDE or box[0] * box[1] < grid.min_pixels:
            return
        yield grid.within((box[0], box[1]))


def key_for(grid: ImageGrid, phase: str) -> str:
    """The setting that gives a phase this grid."""
    if grid.max_size is None:
        return f"model.max_pixels={grid.max_pixels}"
    return f"train.curriculum, max_size: {list(grid.max_size)} for phase {phase}"


def _on(grid: ImageGrid) -> tuple[int, ...]:
    """The box in whole image tokens, in pixels."""
    return tuple(side // grid.factor * grid.factor for side in grid.max_size or ())


def _fewer_pixels(grid: ImageGrid) -> Iterator[ImageGrid]:
    side = int(grid.max_pixels**0.5) // grid.factor
    for tokens in range(side - 1, 0, -1):
        pixels = (tokens * grid.factor) ** 2
        if pixels < max(grid.min_pixels, SMALLEST_SIDE**2):
            return
        yield replace(grid, max_pixels=pixels)
