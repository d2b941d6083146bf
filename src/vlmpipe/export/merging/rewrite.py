"""A checkpoint written anew, shard by shard in its own layout: copied where nothing changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any, Generic, TypeVar

from vlmpipe.errors import StageError
from vlmpipe.export.merging.fold import Change, as_stored
from vlmpipe.export.merging.safetensors_stream import (
    FLOAT_BYTES,
    ShardHeader,
    ShardWriter,
    StoredTensor,
    TensorSpan,
    header_bytes,
    joined,
    open_for_bytes,
)
from vlmpipe.export.merging.weights import INDEX_NAME, Checkpoint
from vlmpipe.pipeline.files import write_json

BLOCK_VALUES = 1 << 18
"""Values computed at a time: 1 MiB in float32, which a core's cache holds."""

SEALERS = 2
"""One hashes what the other waits for the disk to take."""

T = TypeVar("T")
Seal = Callable[[ShardHeader, Path], T]
"""Done with a written shard while the next one is computed: the base's shard, and the file."""


@dataclass(frozen=True)
class Rewritten(Generic[T]):
    """What was written."""

    dtype: str
    """Precision of what changed."""

    base_dtypes: Mapping[str, int]
    """Count of the base's floating tensors by precision."""

    moved: frozenset[str]
    """Tensors with an adapter's update that survived rounding."""

    used: Counter[str]
    """How often each key of the adapter went into a tensor."""

    sealed: tuple[T, ...]


def merged_dtype(setting: str, base: str) -> str:
    """Precision of merged weights: float16 when `model.dtype` says so, else the base's own when
    that is a 16-bit one, else bfloat16.
    """
    if setting in ("float16", "bfloat16"):
        return setting
    return base if base in ("float16", "bfloat16") else "bfloat16"


def base_dtypes(base: Checkpoint) -> dict[str, int]:
    """Count of floating tensors by precision, most frequent first.

    Raises:
        StageError: when the base is held in fewer than 16 bits.
    """
    narrow = sorted(s.key for s in base.spans.values() if s.dtype is None and s.code[0] == "F")
    if narrow:
        raise StageError(
            f"{base.folder} holds {len(narrow)} tensors of fewer than 16 bits"
            f" ({base.spans[narrow[0]].code}): a quantised model is no base to fold into",
            "give the 16-bit model that it was made from: model.id=ID_OR_FOLDER",
            problems=narrow[:5],
        )
    return dict(Counter(s.dtype for s in base.spans.values() if s.dtype).most_common())


def rewrite(
    base: Checkpoint,
    changes: Mapping[str, Change],
    target: Path,
    *,
    dtype: str,
    lineage: Mapping[str, str],
    seal: Seal[T],
) -> Rewritten[T]:
    """Write the base's shards into `target` under their own names, then their index.

    A tensor that is in neither `changes` nor another precision is copied as bytes. `seal` publishes
    each shard, in a thread of its own.

    Raises:
        StageError: when a value is not finite in the precision asked for.
        OSError: ENOSPC when the disk is full.
    """
    found = base_dtypes(base)
    name = merged_dtype(dtype, next(iter(found), ""))
    shards = _Shards(changes, name, lineage)
    futures: list[Future[T]] = []
    with ThreadPoolExecutor(max_workers=SEALERS) as sealer:
        for shard in base.shards:
            aside = shards.write(shard, target / shard.path.name)
            futures.append(sealer.submit(seal, shard, aside))
    sealed = tuple(future.result() for future in futures)
    _write_index(base, target, shards.total_bytes)
    return Rewritten(name, found, frozenset(shards.moved), shards.used, sealed)


class _Shards:
    """Writes shards, and keeps account of what went into them."""

    def __init__(self, changes: Mapping[str, Change], dtype: str, lineage: Mapping[str, str]):
        self.changes = changes
        self.dtype = dtype
        self.lineage = lineage
        self.moved: set[str] = set()
        self.used: Counter[str] = Counter()
        self.total_bytes = 0

    def write(self, shard: ShardHeader, path: Path) -> Path:
        """The shard's new values, aside."""
        computed = {span.key for span in shard.spans if self._is_computed(span)}
        header = header_bytes(shard, dict.fromkeys(computed, self.dtype), self.lineage)
        with open_for_bytes(shard.path) as handle, ShardWriter(path, header) as writer:
            for by_value, spans in groupby(shard.by_place, lambda s: s.key in computed):
                if not by_value:
                    self._copy(handle, spans, writer)
                    continue
                for span in spans:
                    self._compute(StoredTensor(handle, span), writer)
            return writer.aside

    def _is_computed(self, span: TensorSpan) -> bool:
        return span.key in self.changes or span.dtype not in (None, self.dtype)

    def _copy(self, handle: int, spans: Iterable[TensorSpan], writer: ShardWriter) -> None:
        for begin, end in joined(spans):
            writer.copy(handle, begin, end)
            self.total_bytes += end - begin

    def _compute(self, stored: StoredTensor, writer: ShardWriter) -> None:
        key = stored.span.key
        change = self.changes.get(key, Change(as_stored))
        if _write_values(stored, change, self.dtype, writer):
            self.moved.add(key)
        self.used.update(change.keys)
        self.total_bytes += prod(stored.span.shape) * FLOAT_BYTES[self.dtype]


def row_blocks(span: TensorSpan) -> Iterator[tuple[int, int]]:
    """Ranges of rows with about `BLOCK_VALUES` values each."""
    step = max(1, BLOCK_VALUES // max(1, span.row_values))
    for begin in range(0, span.rows, step):
        yield begin, min(begin + step, span.rows)


def _write_values(stored: StoredTensor, change: Change, dtype: str, writer: ShardWriter) -> bool:
    """Write a tensor's new values; whether an update survived their rounding."""
    import torch

    span, rows, moved = stored.span, change.original(stored), False
    largest = max((end - begin for begin, end in row_blocks(span)), default=0)
    wide = torch.empty(largest, span.row_values)
    rounded = torch.empty(largest, span.row_values, dtype=getattr(torch, dtype))
    for begin, end in row_blocks(span):
        before, after = rows(begin, end), rounded[: end - begin]
        if change.factors is None:
            after.copy_(before)
        else:
            change.factors.apply(before, begin, end, out=wide[: end - begin])
            after.copy_(wide[: end - begin])
            moved = moved or not torch.equal(after, before.to(after.dtype))
        _refuse_non_finite(span.key, after, dtype)
        writer.write(after)
    return moved


def _refuse_non_finite(key: str, values: Any, dtype: str) -> None:
    import torch

    if values.numel() == 0:
        return
    lowest, highest = torch.aminmax(values)  # both NaN where there is one
    if not bool((lowest.isfinite() & highest.isfinite()).item()):
        raise StageError(
            f"{key} holds values that are not finite in {dtype}",
            "merge into the wider range of bfloat16: model.dtype=bfloat16",
            "or train again with smaller steps: train.learning_rate=1e-4",
        )


def _write_index(base: Checkpoint, target: Path, total_bytes: int) -> None:
    """The base's own index; last, so that what has one is whole."""
    if base.index is not None:
        metadata = {**(base.index.get("metadata") or {}), "total_size": total_bytes}
        write_json(target / INDEX_NAME, {**base.index, "metadata": metadata})
