"""Pixels as numbers: paper and ink found, noise drawn, pictures bent.

Everything that decides a pixel is an integer, or a float of one rounding: the same seed gives the
same bytes on any machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
Colour = tuple[int, int, int]
Point = tuple[float, float]

INK_CONTRAST = 24
"""Grey levels from the paper, in any channel, from which a pixel is ink."""


def to_array(image: Image.Image) -> Array:
    """Height × width × 3, 0 to 255, in 32-bit integers that can be reckoned with."""
    return np.asarray(image.convert("RGB")).astype(np.int32)


def to_image(array: Array) -> Image.Image:
    """The array as an RGB image; values beyond 0 to 255 are clipped."""
    return Image.fromarray(array.clip(0, 255).astype(np.uint8))


def paper_of(array: Array) -> Colour:
    """The colour in the middle of those along the border."""
    border = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
    red, green, blue = np.sort(border, axis=0)[len(border) // 2].tolist()
    return (red, green, blue)


def ink_margins(array: Array) -> tuple[int, int, int, int]:
    """Rows and columns without ink: left, top, right, bottom; half the side each without any."""
    ink = (np.abs(array - np.array(paper_of(array))) > INK_CONTRAST).any(axis=2)
    left, right = _free_ends(ink.any(axis=0))
    top, bottom = _free_ends(ink.any(axis=1))
    return left, top, right, bottom


def _free_ends(used: Array) -> tuple[int, int]:
    places = np.flatnonzero(used)
    if not len(places):
        return len(used) // 2, len(used) // 2
    return int(places[0]), int(len(used) - 1 - places[-1])


def has_tones(array: Array) -> bool:
    """Whether a clean drawing says something by colour, or by greys that fill areas: a legend's."""
    coloured = array.max(axis=2) - array.min(axis=2) > 40
    off_paper = np.abs(array - np.array(paper_of(array))).max(axis=2) > 8
    # Print has greys too, at its edges, where neighbours differ.
    steps = np.abs(np.diff(array, axis=0)).max(axis=2)[:, 1:]
    steps = np.maximum(steps, np.abs(np.diff(array, axis=1)).max(axis=2)[1:])
    filled = (steps <= 2) & (off_paper & (array.max(axis=2) > 90))[1:, 1:]
    return bool(coloured.mean() > 0.001 or filled.mean() > 0.01)


def grain(rng: random.Random, height: int, width: int) -> Array:
    """Even noise, 0 to 65535: the generator's own bytes, which no library's release changes."""
    noise = np.frombuffer(rng.randbytes(2 * height * width), dtype="<u2")
    return noise.reshape(height, width).astype(np.int32)


def clouds(rng: random.Random, height: int, width: int, cells: int) -> Array:
    """Smooth unevenness, 0 to 255, of about `cells` spots a side."""
    spots = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
    return np.asarray(spots.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int32)


def shaded(array: Array, shade: Array) -> Array:
    """Each pixel darkened by `shade` of 255 parts (a field of height × width)."""
    kept: Array = array * (255 - shade)[..., None] // 255
    return kept


def warped(array: Array, quad: Sequence[Point], size: tuple[int, int], outside: Colour) -> Array:
    """A picture of `size` (width, height) whose corners show the points of `quad` in the old one:
    left top, right top, right bottom, left bottom; what lies beyond it is of colour `outside`.

    Written out, because Pillow's `transform` reckons in floats that compilers for other
    processors fuse, and that round otherwise there. The formula is Heckbert's, Fundamentals of
    Texture Mapping and Image Warping (1989), section 2.2.3.
    """
    across, down = _sources(quad, size)
    framed = np.pad(array, ((1, 1), (1, 1), (0, 0)))
    framed[[0, -1], :] = framed[:, [0, -1]] = outside
    height, width = array.shape[:2]
    x, y = across.clip(-256, width * 256) + 256, down.clip(-256, height * 256) + 256
    left, top = np.minimum(x >> 8, width), np.minimum(y >> 8, height)
    right_share, bottom_share = (x - left * 256)[..., None], (y - top * 256)[..., None]
    upper = framed[top, left] * (256 - right_share) + framed[top, left + 1] * right_share
    lower = framed[top + 1, left] * (256 - right_share) + framed[top + 1, left + 1] * right_share
    mixed: Array = (upper * (256 - bottom_share) + lower * bottom_share + 32768) >> 16
    return mixed


def _sources(quad: Sequence[Point], size: tuple[int, int]) -> tuple[Array, Array]:
    """Where each pixel comes from, in 256ths of a pixel."""
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = quad
    dx1, dx2, sx = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, sy = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    area = dx1 * dy2 - dx2 * dy1
    g, h = (sx * dy2 - dx2 * sy) / area, (dx1 * sy - sx * dy1) / area
    width, height = size
    u = ((np.arange(width) + 0.5) / width)[None, :]
    v = ((np.arange(height) + 0.5) / height)[:, None]
    depth = g * u + h * v + 1
    across = ((x1 - x0 + g * x1) * u + (x3 - x0 + h * x3) * v + x0) / depth - 0.5
    down = ((y1 - y0 + g * y1) * u + (y3 - y0 + h * y3) * v + y0) / depth - 0.5
    return np.rint(across * 256).astype(np.int32), np.rint(down * 256).astype(np.int32)
