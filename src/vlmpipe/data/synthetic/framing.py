"""How the page lies under the glass: cut close, askew, seen from one side.

Ink is never lost: cuts leave a margin, and a bent page lies within the picture as a whole.
"""

from __future__ import annotations

import math
import random

from PIL import Image

from vlmpipe.data.synthetic.pixels import (
    Array,
    Colour,
    ink_margins,
    paper_of,
    to_array,
    to_image,
    warped,
)

MIN_SIDE = 112
KEPT_MARGIN = 4
"""Pixels between ink and a cut."""

LARGEST_CUT = 0.04
LARGEST_GROWTH = 0.05
"""Shares of a side: what the picture may lose at each end, and gain in all."""


def crop(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """A few pixels of margin cut away at each side, where there is margin."""
    width, height = image.size
    left, top, right, bottom = ink_margins(to_array(image))
    near_left, near_right = _cuts(rng, (left, right), width, strength)
    near_top, near_bottom = _cuts(rng, (top, bottom), height, strength)
    return image.crop((near_left, near_top, width - near_right, height - near_bottom))


def _cuts(rng: random.Random, free: tuple[int, int], side: int, strength: float) -> tuple[int, int]:
    largest = int(side * LARGEST_CUT * strength) + 1
    cuts = [rng.randint(0, max(0, min(largest, room - KEPT_MARGIN))) for room in free]
    return (cuts[0], cuts[1]) if side - sum(cuts) >= MIN_SIDE else (0, 0)


def skew(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Turned by up to four degrees, less for narrow pictures; the picture grows to hold it."""
    width, height = image.size
    steepest = min(0.07 * strength, LARGEST_GROWTH * min(image.size) / max(image.size))
    slope = rng.choice((-1, 1)) * steepest * rng.uniform(0.5, 1.0)
    size = (width + int(height * abs(slope)), height + int(width * abs(slope)))
    # A slope and a root instead of an angle: sines differ in the last digit between systems.
    cosine = 1 / math.sqrt(1 + slope * slope)
    sine = slope * cosine
    quad = [
        (
            width / 2 + cosine * x * size[0] / 2 + sine * y * size[1] / 2,
            height / 2 - sine * x * size[0] / 2 + cosine * y * size[1] / 2,
        )
        for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    array = to_array(image)
    return to_image(warped(array, quad, size, _outside(array, rng, strength)))


def perspective(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Photographed from one side: each corner drawn inwards by up to five hundredths."""
    width, height = image.size
    reach = 0.05 * strength
    quad = [
        (x + sign_x * width * reach * rng.random(), y + sign_y * height * reach * rng.random())
        for x, y, sign_x, sign_y in (
            (0, 0, -1, -1),
            (width, 0, 1, -1),
            (width, height, 1, 1),
            (0, height, -1, 1),
        )
    ]
    array = to_array(image)
    return to_image(warped(array, quad, image.size, _outside(array, rng, strength)))


def _outside(array: Array, rng: random.Random, strength: float) -> Colour:
    """What lies beside the page: the scanner's white, or its open lid."""
    lid = rng.randint(20, 70)
    return (lid, lid, lid) if rng.random() < strength / 2 else paper_of(array)
