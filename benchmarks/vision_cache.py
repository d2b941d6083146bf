"""How fast the disk cache of vision features hands out what it holds.

    python benchmarks/vision_cache.py                 (--gb 2 --rounds 7 --folder DIR)

Entries as Qwen2.5-VL-3B makes them (1,000 to 2,816 image tokens of 2,048 bfloat16 values, 4 to
12 MB), and as Qwen3-VL-2B does (the same with three levels of DeepStack: 16 to 46 MB). Each round
opens the store anew, so that mapping the shards and faulting their pages in is within its time;
the files lie in the page cache. One thread.

- hit: the entry is found, its hash is computed over all of its bytes and compared, tensors over
  the map are handed out.
- hit, collated: that, and the features of four images copied into the tensors of a batch, which is
  what a training step pays.
- write: appended to shards and brought to the disk (fsync) at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from evaluation_figures import Figure, figure, markdown_table

from vlmpipe.training.vision_cache.features import ImageFeatures, collate_features
from vlmpipe.training.vision_cache.namespace import Namespace
from vlmpipe.training.vision_cache.stores import DiskStore

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/vision_cache.json"
LIBRARIES = ("vlmpipe", "torch", "xxhash", "numpy")
WIDTH = 2048
TOKENS = (1000, 2816)
SHAPES = {"Qwen2.5-VL-3B": 1, "Qwen3-VL-2B": 4}
GOAL_MB_S = 500.0
BATCH = 4


@dataclass(frozen=True)
class Filled:
    """A store on the disk."""

    folder: Path
    namespace: Namespace
    keys: tuple[bytes, ...]
    values_mb: float
    write_mb_s: float

    def open(self) -> DiskStore:
        """As a new process would."""
        return DiskStore(self.folder, self.namespace)


def fill(folder: Path, name: str, levels: int, gigabytes: float) -> Filled:
    """Write entries of random sizes until there are so many bytes."""
    draw = random.Random(0)
    store = DiskStore(folder, Namespace({"benchmark": name}))
    values = torch.randn(levels, TOKENS[1], WIDTH).to(torch.bfloat16)
    keys: list[bytes] = []
    total, start = 0, time.perf_counter()
    while total < gigabytes * 1e9:
        used = values[:, : draw.randint(*TOKENS)]
        keys.append(len(keys).to_bytes(32, "big"))
        store.put(keys[-1], ImageFeatures(used[0], tuple(used[1:])))
        total += used.numel() * 2
    store.flush()
    speed = total / 1e6 / (time.perf_counter() - start)
    return Filled(folder, Namespace({"benchmark": name}), tuple(keys), total / 1e6, speed)


def read(filled: Filled) -> None:
    """Every entry once, in another order than they were written in."""
    store = filled.open()
    for key in shuffled(filled):
        if store.get(key) is None:
            sys.exit(f"entry {key.hex()} is not there: {store.take_faults()}")


def read_and_collate(filled: Filled) -> None:
    """Every entry once, four of them to a batch."""
    store, keys = filled.open(), shuffled(filled)
    for first in range(0, len(keys), BATCH):
        found = [store.get(key) for key in keys[first : first + BATCH]]
        collate_features([each for each in found if each is not None])


def open_only(filled: Filled) -> None:
    """Find out what there is."""
    filled.open()


def shuffled(filled: Filled) -> list[bytes]:
    """As an epoch draws them."""
    return random.Random(1).sample(filled.keys, len(filled.keys))


def seconds(work: Callable[[Filled], None], filled: Filled) -> float:
    """Of one run."""
    start = time.perf_counter()
    work(filled)
    return time.perf_counter() - start


def figures_of(filled: Filled, name: str, rounds: int) -> dict[str, Figure]:
    """Medians over rounds, the kinds of work taking turns."""
    works = {"hit": read, "hit, collated": read_and_collate, "open": open_only}
    times: dict[str, list[float]] = {each: [] for each in works}
    read(filled)  # brings the files into the page cache, where the memory holds them
    for _ in range(rounds):
        for each, work in works.items():
            times[each].append(seconds(work, filled))
    found: dict[str, Figure] = {}
    for each in ("hit", "hit, collated"):
        speeds = [filled.values_mb / value for value in times[each]]
        found[f"{each}, {name}"] = figure(
            statistics.median(speeds), "MB/s", goal=GOAL_MB_S, spread=speeds
        )
    found[f"write, {name}"] = figure(filled.write_mb_s, "MB/s")
    opened = [value / len(filled.keys) * 1e6 for value in times["open"]]
    found[f"open, {name}"] = figure(statistics.median(opened), "µs an entry", spread=opened)
    return found


def measure(folder: Path, gigabytes: float, rounds: int) -> dict[str, Any]:
    """Both shapes, one after the other."""
    figures: dict[str, Figure] = {}
    entries: dict[str, int] = {}
    for name, levels in SHAPES.items():
        filled = fill(folder / name, name, levels, gigabytes)
        figures |= figures_of(filled, name, rounds)
        entries[name] = len(filled.keys)
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": _git_commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "kernel": platform.release().split("-")[0],
            "python": platform.python_version(),
            "load_average": [round(value, 1) for value in os.getloadavg()],
        },
        "versions": {name: version(name) for name in LIBRARIES},
        "entries": entries,
        "figures": figures,
    }


def _git_commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or None


def main() -> None:
    """Run, print, and write the results beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gb", type=float, default=2.0, help="of features, for each shape")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-vision-", dir=arguments.folder) as folder:
        results = measure(Path(folder), arguments.gb, arguments.rounds)
    arguments.results.parent.mkdir(exist_ok=True)
    arguments.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    table = markdown_table(results["figures"])
    arguments.results.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
