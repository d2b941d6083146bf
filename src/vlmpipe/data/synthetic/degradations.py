"""Clean drawings made to look scanned: each degradation by name, and several of them by lot.

Our own, on Pillow and numpy: augraphy, the library for this, brings numba along and draws from
random generators that belong to the whole process, so that a seed promises nothing in a pool of
workers; albumentations is no longer maintained.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Protocol

from PIL import Image

from vlmpipe.data.synthetic import capture, framing, paper
from vlmpipe.data.synthetic.pixels import has_tones, to_array
from vlmpipe.encoding.conversation import Message, Part, Sample


class Degradation(Protocol):
    """One thing that goes wrong between a page and its file."""

    def __call__(self, image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
        """A new RGB image, the same for the same image, state of `rng` and strength (0 to 1)."""


DEGRADATIONS: dict[str, Degradation] = {
    "crop": framing.crop,
    "bleed_through": paper.bleed_through,
    "fold_lines": paper.fold_lines,
    "stains": paper.stains,
    "punch_holes": paper.punch_holes,
    "photocopy": capture.photocopy,
    "skew": framing.skew,
    "perspective": framing.perspective,
    "shadow": capture.shadow,
    "blur": capture.blur,
    "low_contrast": capture.low_contrast,
    "fax": capture.fax,
    "jpeg": capture.jpeg,
}
"""By name, in the order in which a page meets them."""


def scan(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Two to six degradations by lot, each at half its strength or more.

    At strength 0 the very same image comes back. Up to 0.3 text stays legible. Sides change by a
    tenth at most and stay at 112 pixels or more where they were. What is drawn in colours or
    greys keeps them: a fax would take away what tells a chart's parts from each other.
    """
    if strength <= 0:
        return image
    possible = [name for name in DEGRADATIONS if name != "fax" or not has_tones(to_array(image))]
    chosen = rng.sample(possible, k=rng.randint(2, 2 + round(4 * strength)))
    for name in possible:
        if name in chosen:
            image = DEGRADATIONS[name](image, rng, strength * rng.uniform(0.5, 1.0))
    return image


def scanned(sample: Sample, seed: int, strength: float) -> Sample:
    """The sample with each of its pictures put through `scan`, in its place in the message.

    Drawn by lot from the seed and the picture itself: two samples of one picture still show one
    picture, so that repeats are found and a held-out picture is never trained on in other dirt.
    """
    if strength <= 0:
        return sample

    def treated(part: Part) -> Part:
        return part if isinstance(part, str) else _scanned(part, seed, strength)

    return replace(
        sample,
        messages=tuple(
            Message(message.role, tuple(map(treated, message.parts))) for message in sample.messages
        ),
    )


def _scanned(image: Image.Image, seed: int, strength: float) -> Image.Image:
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    return scan(image, random.Random(f"scan:{seed}:{image.size}:{digest}"), strength)
