"""What is wrong with a few samples before anything is trained on them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from vlmpipe.config.train import LossScope
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import IGNORED, Encoder
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.training.audits.masks import find_mask_fault

SHOWN = 60


def spread(count: int, total: int) -> list[int]:
    """Up to `count` places, evenly over `total`."""
    taken = min(count, total)
    return [place * total // taken for place in range(taken)]


def contradictions(samples: Sequence[Sample]) -> list[str]:
    """One line for each set of samples with the same prompt and images, and different answers."""
    alike: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        alike[_asked(sample)].append(sample)
    return [
        f"{' and '.join(f'{each.id} ({each.origin})' for each in group)} ask the same of the same"
        f" image and answer {' and '.join(repr(cut(each.reference)) for each in group)}"
        for group in alike.values()
        if len({each.reference for each in group}) > 1
    ]


def mask_faults(
    samples: Sequence[Sample], encoder: Encoder, scope: LossScope, grid: ImageGrid
) -> list[str]:
    """One line for each sample whose supervised tokens do not hold its answer, whole."""
    faults = []
    for sample in samples:
        encoded = encoder.encode_sample(sample.messages, scope, grid)
        fault = find_mask_fault(sample, encoded, encoder, scope)
        labels = [label for label in encoded.labels if label != IGNORED]
        supervised = encoder.decode(labels, skip_special_tokens=False)
        if fault is None and sample.reference.strip() not in supervised:
            fault = f"supervised is {cut(supervised)!r}, the answer is {cut(sample.reference)!r}"
        if fault is not None:
            faults.append(f"{sample.id} ({sample.origin}): {fault}")
    return faults


def cut(text: str) -> str:
    """The beginning of a text, for a line."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _asked(sample: Sample) -> str:
    digest = hashlib.sha256()
    for message in sample.prompt:
        digest.update(f"\0{message.role}\0".encode())
        for part in message.parts:
            if isinstance(part, str):
                digest.update(part.encode())
            else:
                digest.update(f"\0{part.mode}{part.size}".encode() + part.tobytes())
    return digest.hexdigest()
