"""When the 16-bit file differs: the first part that departs, and whose fault it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image, ImageChops

from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.engines.base import ForcingEngine
from vlmpipe.export.parity.divergence import IncomparableError, token_divergences

Part = Literal["preprocessing", "vision features", "text", "text after an image"]
MAX_FEATURE_ERROR = 0.01
"""Relative error of the tower's output: f16 rounding through a tower leaves about 1e-3."""


class Inspectable(ForcingEngine, Protocol):
    """An engine that shows what happens between message and answer."""

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a prompt; -1 for each token of an image."""

    def handed_over(self, image: Image.Image) -> Image.Image:
        """The image as the runtime is given it."""

    def image_features(self, image: Image.Image) -> np.ndarray:
        """What the tower makes of an image: [tokens, values]."""


@dataclass(frozen=True)
class Diagnosis:
    """Where two engines part."""

    part: Part
    found: str
    sample: str

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def diagnose(
    reference: Inspectable, other: Inspectable, sample: Sample, *, limit: float
) -> Diagnosis:
    """The first part of the way through a model at which `other` leaves `reference`.

    `limit` is the mean KL divergence, in nats a token, above which the text part is at fault.
    """
    fault = _preprocessing(reference, other, sample)
    if fault:
        return Diagnosis("preprocessing", fault, sample.id)
    fault = _vision(reference, other, sample)
    if fault:
        return Diagnosis("vision features", fault, sample.id)
    without = _without_images(reference, other, sample)
    if without > limit or not sample.images:
        found = f"without any image the KL divergence is {without:.3g} nats a token"
        return Diagnosis("text", found, sample.id)
    found = f"ids and image features agree, and text without an image does (KLD {without:.3g})"
    return Diagnosis("text after an image", found, sample.id)


def _preprocessing(reference: Inspectable, other: Inspectable, sample: Sample) -> str | None:
    pairs = zip_longest(reference.prompt_ids(sample.prompt), other.prompt_ids(sample.prompt))
    for place, (ours, theirs) in enumerate(pairs):
        if ours != theirs:
            return f"prompt token {place} is {ours} above and {theirs} below (-1: an image's)"
    for number, image in enumerate(sample.images, start=1):
        fault = _difference(reference.handed_over(image), other.handed_over(image))
        if fault:
            return f"image {number} {fault}"
    return None


def _difference(ours: Image.Image, theirs: Image.Image) -> str | None:
    if ours.size != theirs.size:
        return (
            f"is handed over in {ours.width}×{ours.height} above and in"
            f" {theirs.width}×{theirs.height} below"
        )
    largest = int(np.asarray(ImageChops.difference(ours, theirs)).max())
    if largest == 0:
        return None
    return f"is resized otherwise: pixels differ by up to {largest} of 255"


def _vision(reference: Inspectable, other: Inspectable, sample: Sample) -> str | None:
    for number, image in enumerate(sample.images, start=1):
        ours, theirs = reference.image_features(image), other.image_features(image)
        if ours.shape != theirs.shape:
            return f"image {number} has features of {ours.shape} above and {theirs.shape} below"
        error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(ours))
        if not error <= MAX_FEATURE_ERROR:  # true for NaN too
            return (
                f"features of image {number} differ by {error:.1%}, limit {MAX_FEATURE_ERROR:.0%}"
            )
    return None


def _without_images(reference: Inspectable, other: Inspectable, sample: Sample) -> float:
    """Mean KL divergence of the same conversation, its images left out; infinite where token ids
    differ.
    """
    turns = [Message(turn.role, (turn.text,)) for turn in sample.prompt]
    try:
        klds, _ = token_divergences(
            reference.forced(turns, sample.reference), other.forced(turns, sample.reference)
        )
    except IncomparableError:
        return float("inf")
    return float(klds.mean())
