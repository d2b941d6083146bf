"""Entries of a vision cache as its tests write them; run by itself, a process that writes some.

python vision_cache_entries.py FOLDER FIRST LAST TOKENS GO [DIE]

It says "ready", waits for the file GO, and says each entry's number once it is written. It kills
itself in the middle of writing entry DIE.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

import torch

from vlmpipe.training.vision_cache import shards
from vlmpipe.training.vision_cache.features import ImageFeatures
from vlmpipe.training.vision_cache.namespace import Namespace
from vlmpipe.training.vision_cache.stores import DiskStore

NAMESPACE = Namespace({"of": "tests"})
WIDTH = 64


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def features(
    number: int, tokens: int = 5, levels: int = 1, dtype: torch.dtype = torch.bfloat16
) -> ImageFeatures:
    """Different for each number."""
    generator = torch.Generator().manual_seed(number)
    values = torch.randn(levels, tokens, WIDTH, generator=generator).to(dtype)
    return ImageFeatures(values[0], tuple(values[1:]))


def is_kept(store: DiskStore, number: int, tokens: int = 5) -> bool:
    """Whether the store gives exactly what was put; never anything else."""
    found = store.get(key(number))
    if found is not None:
        assert torch.equal(found.tokens, features(number, tokens).tokens)
    return found is not None


def write_half_and_die(stream: FileIO, parts: Sequence[bytes | memoryview]) -> None:
    """A write that is cut off by SIGKILL."""
    whole = b"".join(parts)
    stream.write(whole[: len(whole) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(folder: str, first: str, last: str, tokens: str, go: str, die: str = "-1") -> None:
    store = DiskStore(Path(folder), NAMESPACE)
    say("ready")
    while not Path(go).exists():
        time.sleep(0.001)
    for number in range(int(first), int(last)):
        if number == int(die):
            shards._write_all = write_half_and_die
        store.put(key(number), features(number, int(tokens)))
        say(str(number))
    store.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
