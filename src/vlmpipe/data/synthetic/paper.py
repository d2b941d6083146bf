"""What happened to the sheet itself: folds, stains, holes, print that shows through."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from vlmpipe.data.synthetic.pixels import Array, ink_margins, shaded, to_array, to_image

COFFEE = (70, 110, 160)
"""What a stain takes away of red, green and blue, of 255."""


def bleed_through(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Print of the back shows through, mirrored; the page stands in for its own back."""
    opacity = 8 + round(60 * strength * rng.uniform(0.7, 1.0))
    back = ImageOps.mirror(image).filter(ImageFilter.BoxBlur(1))
    ghost = 255 - (255 - to_array(back)) * opacity // 256
    return to_image(np.minimum(to_array(image), ghost))


def fold_lines(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """One or two creases across the page, dark on one side and worn along the edge."""
    array = to_array(image)
    for _ in range(rng.randint(1, 1 + round(strength))):
        array = _folded(array, rng, strength)
    return to_image(array)


def _folded(array: Array, rng: random.Random, strength: float) -> Array:
    upright = rng.random() < 0.5
    height, width = array.shape[:2]
    length = width if upright else height
    crease = length * rng.randint(25, 75) // 100
    distance = np.arange(length, dtype=np.int32) - crease
    reach = max(8, length // 14)
    depth = 10 + round(50 * strength)
    shade = np.where(distance >= 0, depth * (reach - distance).clip(0) // reach, 0)
    shade[crease] = depth + round(40 * strength)
    field = shade[None, :] if upright else shade[:, None]
    dark = shaded(array, np.broadcast_to(field, (height, width)))
    return _worn(dark, crease, upright) if strength > 0.6 else dark


def _worn(array: Array, crease: int, upright: bool) -> Array:
    """Toner that cracked off beside the crease."""
    edge = array[:, crease - 1] if upright else array[crease - 1]
    edge[:] = (edge + 255) // 2
    return array


def stains(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Rings of a cup and what dripped from it; print stays darker than they are."""
    array = to_array(image)
    for _ in range(rng.randint(1, 1 + round(2 * strength))):
        mask = _stain(image.size, rng)
        taken = np.array(COFFEE) * round(220 * strength) // 255
        array = array * (255 * 255 - mask[..., None] * taken) // (255 * 255)
    return to_image(array)


def _stain(size: tuple[int, int], rng: random.Random) -> Array:
    """How wet each spot was, 0 to 255."""
    width, height = size
    mask = Image.new("L", size)
    radius = min(size) * rng.randint(8, 22) // 100
    x, y = rng.randint(0, width), rng.randint(0, height)
    box = (x - radius, y - radius, x + radius, y + radius * rng.randint(85, 115) // 100)
    rim = max(2, radius // 10)
    ImageDraw.Draw(mask).ellipse(box, fill=rng.randint(20, 90), outline=255, width=rim)
    return np.asarray(mask.filter(ImageFilter.BoxBlur(rim))).astype(np.int32)


def punch_holes(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Two holes in the left or upper margin; cut by the edge of a page whose margin is narrow,
    and none at all where there is hardly a margin.
    """
    left, top, _, _ = ink_margins(to_array(image))
    upright = left >= top
    margin, side = max(left, top), image.height if upright else image.width
    largest = max(4, min(image.size) * (2 + round(2 * strength)) // 100)
    radius = min(largest, margin - 2)
    if radius < 3:
        return image
    across = max(0, margin - 2 - radius - rng.randint(0, radius))
    apart = side * rng.randint(12, 30) // 100
    dark = (rng.randint(15, 80),) * 3
    punched = image.copy()
    pen = ImageDraw.Draw(punched)
    for along in (side // 2 - apart, side // 2 + apart):
        x, y = (across, along) if upright else (along, across)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=dark)
    return punched
