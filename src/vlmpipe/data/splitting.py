"""Which samples are held out: decided by content and seed, never by position or by chance."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Collection, Sequence

from vlmpipe.encoding.conversation import Sample


def content_keys(sample: Sample) -> frozenset[str]:
    """What must not stand on both sides of the split: each image, or else the prompt's text."""
    if sample.images:
        return frozenset(_image_key(image.size, image.tobytes()) for image in sample.images)
    text = "\n".join(message.text.strip() for message in sample.prompt)
    composed = unicodedata.normalize("NFC", text).encode()
    return frozenset([f"text:{hashlib.sha256(composed).hexdigest()}"])


def _image_key(size: tuple[int, int], pixels: bytes) -> str:
    return f"image:{size[0]}x{size[1]}:{hashlib.sha256(pixels).hexdigest()}"


def heldout_positions(
    keys: Sequence[frozenset[str]],
    fraction: float,
    seed: int,
    pinned: Collection[int] = (),
) -> set[int]:
    """Positions of the samples to hold out.

    Samples that share a key, directly or through others, form a group and stay together; a group
    with a pinned sample stays in training, and so does at least one group. Groups are taken in the
    order of a hash of their content and the seed, each as long as it fits into `fraction` of all;
    where none fits, the smallest is taken alone.
    """
    groups = _groups(keys)
    free = [group for group in groups if not set(group) & set(pinned)]
    wanted = max(1, round(fraction * len(keys)))
    if not fraction or len(groups) < 2 or not free:
        return set()
    order = sorted(free, key=lambda group: _rank(group, keys, seed))
    taken: list[int] = []
    left = len(groups) - 1
    for group in order:
        if left and len(taken) + len(group) <= wanted:
            taken += group
            left -= 1
    if not taken:
        taken = min(order, key=len)
    return set(taken)


def _groups(keys: Sequence[frozenset[str]]) -> list[list[int]]:
    """Connected components, each in ascending order, ordered by their first sample."""
    parent = list(range(len(keys)))

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    first_with: dict[str, int] = {}
    for position, own in enumerate(keys):
        for key in own:
            joined = sorted((root(first_with.setdefault(key, position)), root(position)))
            parent[joined[1]] = joined[0]
    groups: dict[int, list[int]] = {}
    for position in range(len(keys)):
        groups.setdefault(root(position), []).append(position)
    return list(groups.values())


def _rank(group: Sequence[int], keys: Sequence[frozenset[str]], seed: int) -> str:
    content = min(key for position in group for key in keys[position])
    return hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()
