"""What copier, fax, lens and file do to the picture of a page; its size stays as it is."""

from __future__ import annotations

import random
from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

from vlmpipe.data.synthetic.pixels import Array, clouds, grain, shaded, to_array, to_image

FAX_BLACK, FAX_WHITE = 60, 200
"""Grey levels that a fax takes for plain black and plain white; dots stand for those between."""


def photocopy(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Toner that lies unevenly, and specks of it where there was none."""
    array = to_array(image)
    height, width = array.shape[:2]
    missing = clouds(rng, height, width, cells=5) * round(140 * strength) // 255
    pale = 255 - shaded(255 - array, missing)
    specks = grain(rng, height, width) < 12 + 60 * strength
    if strength > 0.5:
        specks[:, 1:] |= specks[:, :-1]
        specks[1:] |= specks[:-1]
    pale[specks] = rng.randint(20, 110)
    return to_image(pale)


def fax(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Black and white dots only, some flipped, with lines lost on the way."""
    grey = np.asarray(image.convert("L")).astype(np.int32)
    height, width = grey.shape
    stretched = (grey - FAX_BLACK) * 255 // (FAX_WHITE - FAX_BLACK)
    level = Image.fromarray(stretched.clip(0, 255).astype(np.uint8))
    dots = np.asarray(level.convert("1").convert("L")).astype(np.int32)
    flipped = grain(rng, height, width) < 30 + 370 * strength * strength
    dots[flipped] = 255 - dots[flipped]
    return to_image(np.repeat(_without_lines(dots, rng, strength)[..., None], 3, axis=2))


def _without_lines(dots: Array, rng: random.Random, strength: float) -> Array:
    """Scan lines that came as the one before, or white in part."""
    height, width = dots.shape
    for _ in range(round(height * strength / 40)):
        y, x = rng.randrange(1, height), rng.randrange(width)
        if rng.random() < 0.5:
            dots[y] = dots[y - 1]
        else:
            dots[y, x : x + width // 2] = 255
    return dots


def jpeg(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Saved as a JPEG of quality 90 down to 25."""
    stream = BytesIO()
    quality = 90 - round(65 * strength * rng.uniform(0.7, 1.0))
    image.convert("RGB").save(stream, format="JPEG", quality=quality)
    with Image.open(stream) as saved:
        return saved.convert("RGB")


def blur(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Out of focus by up to 1.3 pixels."""
    radius = round(0.2 + 1.1 * strength * rng.uniform(0.7, 1.0), 2)
    return image.filter(ImageFilter.GaussianBlur(radius))


def shadow(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Darker towards one edge or corner, as beside a book's spine or under a hand."""
    array = to_array(image)
    height, width = array.shape[:2]
    across = np.arange(width, dtype=np.int32)[None, :] * 1000 // width
    down = np.arange(height, dtype=np.int32)[:, None] * 1000 // height
    slant = rng.choice(((1, 0), (0, 1), (1, 1)))
    way = slant[0] * (across if rng.random() < 0.5 else 999 - across)
    way = way + slant[1] * (down if rng.random() < 0.5 else 999 - down)
    reach = rng.randint(400, 1000)
    depth = 20 + round(110 * strength * rng.uniform(0.7, 1.0))
    return to_image(shaded(array, depth * (reach - way).clip(0) // reach))


def low_contrast(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Faded: black turns grey, white turns greyish."""
    black = round(100 * strength * rng.uniform(0.6, 1.0))
    white = 255 - round(60 * strength * rng.uniform(0.3, 1.0))
    return to_image(black + to_array(image) * (white - black) // 255)
