"""The frozen probe set: the same samples asked of every rung, odd image sizes among them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from vlmpipe.data.store import load_split
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import ArtifactError, StageError
from vlmpipe.pipeline.files import write_json

PROBES_NAME = "probes.json"
LOOKED_AT = 4
"""Samples looked at for each that is taken."""

ON_GRID_SHARE = 4
"""At most one in so many lies on the grid already, where others are to be had."""


@dataclass(frozen=True)
class ProbeSet:
    """Samples whose ids, pictures and answers are fixed by a digest."""

    samples: tuple[Sample, ...]
    digest: str

    def record(self, grid: ImageGrid) -> dict[str, Any]:
        """Ids, sizes and digest, as `probes.json` and `parity.json` hold them."""
        rows = [
            {
                "id": sample.id,
                "images": [[image.height, image.width] for image in sample.images],
                "grid": [list(grid.target_size(i.height, i.width)) for i in sample.images],
            }
            for sample in self.samples
        ]
        off = sum(not is_on_grid(sample, grid) for sample in self.samples)
        return {"sha256": self.digest, "count": len(rows), "off_grid": off, "samples": rows}

    def write(self, folder: Path, grid: ImageGrid) -> None:
        """Write `probes.json`."""
        write_json(folder / PROBES_NAME, self.record(grid))


def select_probes(data: Path, count: int, grid: ImageGrid) -> ProbeSet:
    """`count` samples of a prepared data folder, held-out ones first.

    Pictures whose sides are no multiples of the grid come first: those are the ones that a wrong
    resize spoils. Up to a quarter lies on the grid, as control.

    Raises:
        StageError: when there are no samples at all.
    """
    splits = (load_split(data, "heldout"), load_split(data, "train"))
    candidates = list(islice(chain(*splits), LOOKED_AT * count))
    if len(splits[0]) >= count:  # never a sample that was learned, while others are to be had
        candidates = candidates[: len(splits[0])]
    if not candidates:
        raise StageError(f"{data} holds no samples to ask", "prepare more: data.synthetic.n=N")
    return _frozen(_odd_first(candidates, count, grid))


def read_probes(folder: Path, data: Path) -> ProbeSet:
    """The probe set that an artifact names, from the data it was chosen from.

    Raises:
        ArtifactError: when the file cannot be read, or the data no longer hold these samples.
    """
    path = folder / PROBES_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        ids, digest = [row["id"] for row in record["samples"]], record["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(
            f"{path} cannot be read as a probe set: {exc}",
            "choose it again: `vlmpipe run-all --force merge` with the same options",
        ) from exc
    found = _by_id(data, ids)
    probes = _frozen([found[id_] for id_ in ids if id_ in found])
    if probes.digest != digest:
        raise ArtifactError(
            f"the samples in {data} are not those that {path} was made from: digest"
            f" {probes.digest[:12]}…, stated {digest[:12]}…",
            "choose them again: `vlmpipe run-all --force merge` with the same options",
        )
    return probes


def is_on_grid(sample: Sample, grid: ImageGrid) -> bool:
    """Whether no picture of it is resized at all."""
    sizes = [(image.height, image.width) for image in sample.images]
    return all(grid.target_size(*size) == size for size in sizes)


def _odd_first(candidates: Sequence[Sample], count: int, grid: ImageGrid) -> list[Sample]:
    on_grid = [sample for sample in candidates if is_on_grid(sample, grid)]
    off_grid = [sample for sample in candidates if not is_on_grid(sample, grid)]
    control = on_grid[: max(count // ON_GRID_SHARE, count - len(off_grid))]
    return [*off_grid[: count - len(control)], *control]


def _by_id(data: Path, ids: Sequence[str]) -> dict[str, Sample]:
    wanted, found = set(ids), {}
    for split in (load_split(data, "heldout"), load_split(data, "train")):
        for position, id_ in enumerate(split.column("id")):
            if id_ in wanted and id_ not in found:
                found[id_] = split[position]
    return found


def _frozen(samples: Sequence[Sample]) -> ProbeSet:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.id}\0{sample.reference}\0".encode())
        for image in sample.images:
            digest.update(f"{image.mode}{image.size}".encode() + image.tobytes())
    return ProbeSet(tuple(samples), digest.hexdigest())
