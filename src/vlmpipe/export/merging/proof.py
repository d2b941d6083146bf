"""The proof of a merge, read from the files that it wrote."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.errors import StageError
from vlmpipe.export.merging.adapter import RETRAIN
from vlmpipe.export.merging.fold import Change
from vlmpipe.export.merging.plan import Plan
from vlmpipe.export.merging.rewrite import row_blocks
from vlmpipe.export.merging.safetensors_stream import (
    PARTIAL_SUFFIX,
    ShardHeader,
    StoredTensor,
    TensorSpan,
    open_for_bytes,
    read_header,
    read_into,
)
from vlmpipe.export.merging.weights import Checkpoint, digest_of_files

READ_BYTES = 1 << 20
SAMPLED_ROWS = 8
SAMPLED_DEQUANTISED = 8
"""Tensors whose 4-bit values are computed again; each takes as long as it did to write."""

DAMAGED = "merge again: `vlmpipe run-all --force merge`; when it recurs, test memory and disk"


@dataclass(frozen=True)
class ShardProof:
    """One written file held against the base's."""

    name: str
    sha256: str
    changed: frozenset[str]
    """Tensors whose stored values are not the base's."""

    identical: frozenset[str]
    """Tensors that were to stay and did: their bytes hash to what the base's hash to, or, where the
    precision is another one, every value is the base's, rounded once."""


@dataclass(frozen=True)
class MergeProof:
    """What was found in the written files."""

    expected: int
    """Tensors that had to change: the adapted ones, and those that were in 4-bit where their
    4-bit values were folded into; for a full training none by name."""

    changed: int
    """Of those, tensors that differ from the base's on the disk."""

    replaced_changed: int
    """Unfrozen or fully trained tensors that differ; they need not."""

    untouched: int
    """Tensors that nothing was trained for. Copied ones hash to what the base's hash to; one that
    was cast from another precision, as float32 is, holds the base's values rounded once."""

    adapter_keys: int
    """Keys of the adapter's file, every one of them used exactly once."""

    recomputed_tensors: int
    """Tensors of which rows were computed again, in float64, from the files."""

    worst_rounding: float
    """Largest departure among them, where 1 is half a unit in the last place."""

    shards: Mapping[str, str]
    """sha256 of each file."""

    digest: str
    """sha256 over the lines `name sha256`."""


def prove_shard(
    shard: ShardHeader, path: Path, touched: frozenset[str], lineage: Mapping[str, str]
) -> ShardProof:
    """Read a written file once and hold it against the base's shard.

    Its metadata are the base's, but for `lineage`: a base that was itself merged has one of its
    own, which is not that of the result.

    Raises:
        StageError: when layout, metadata or a tensor that was to be copied is not the base's.
    """
    written = read_header(path)
    _refuse_other_layout(shard, written, lineage)
    spans = {span.key: span for span in shard.spans}
    copied = {s.key for s in written.spans if s.key not in touched and s.code == spans[s.key].code}
    digest, hashes = _hashed(written, copied)
    with open_for_bytes(shard.path) as base, open_for_bytes(path) as result:
        wrong = [key for key in hashes if _hash_of(base, spans[key]) != hashes[key]]
        changed = {
            span.key
            for span in written.spans
            if span.key not in copied
            and not _same_values(StoredTensor(base, spans[span.key]), StoredTensor(result, span))
        }
    wrong += sorted(changed - touched)
    if wrong:
        raise StageError(
            f"{path.name}: {len(wrong)} tensors that nothing was trained for are not the base's",
            DAMAGED,
            problems=wrong[:5],
        )
    identical = {span.key for span in written.spans} - touched
    name = path.name.removesuffix(PARTIAL_SUFFIX)
    return ShardProof(name, digest, frozenset(changed), frozenset(identical))


def prove_merge(
    base: Checkpoint,
    result: Checkpoint,
    plan: Plan,
    shards: Sequence[ShardProof],
    used: Counter[str],
) -> MergeProof:
    """Everything together: what changed is what was trained, by the right amount.

    Raises:
        StageError: naming the tensors or adapter keys that are not as planned.
    """
    changed = frozenset[str]().union(*(shard.changed for shard in shards))
    expected = plan.adapted | plan.dequantised
    _refuse_other_changes(expected, changed - plan.replaced)
    if not changed:
        raise StageError("the merged weights equal the base's: nothing was learned", RETRAIN)
    _refuse_unused(plan.adapter_keys, used)
    sample = _sample(plan)
    worst = max(
        (_worst_rounding(base, result, key, plan.changes[key]) for key in sample), default=0
    )
    digests = {shard.name: shard.sha256 for shard in shards}
    return MergeProof(
        expected=len(expected),
        changed=len(changed & expected),
        replaced_changed=len(changed & plan.replaced),
        untouched=sum(len(shard.identical) for shard in shards),
        adapter_keys=len(plan.adapter_keys),
        recomputed_tensors=len(sample),
        worst_rounding=round(worst, 4),
        shards=digests,
        digest=digest_of_files(digests),
    )


def _refuse_other_layout(
    shard: ShardHeader, written: ShardHeader, lineage: Mapping[str, str]
) -> None:
    def layout(header: ShardHeader) -> list[Any]:
        by_place = [span.key for span in header.by_place]
        return [by_place, [(span.key, span.shape) for span in header.spans]]

    stated = {**shard.metadata, **lineage}
    found = {key: written.metadata.get(key) for key in stated}
    if layout(shard) != layout(written) or found != stated:
        raise StageError(
            f"{written.path.name} is not laid out as the base's {shard.path.name}", DAMAGED
        )


def _hashed(shard: ShardHeader, keys: Iterable[str]) -> tuple[str, dict[str, str]]:
    """sha256 of a file and of some of its tensors, reading it once."""
    wanted, whole = set(keys), hashlib.sha256()
    hashes: dict[str, str] = {}
    with open_for_bytes(shard.path) as handle:
        place = 0
        for span in shard.by_place:
            _feed(handle, place, span.begin, whole)
            own = hashlib.sha256()
            _feed(handle, span.begin, span.end, *((whole, own) if span.key in wanted else (whole,)))
            if span.key in wanted:
                hashes[span.key] = own.hexdigest()
            place = span.end
        _feed(handle, place, os.fstat(handle).st_size, whole)
    return whole.hexdigest(), hashes


def _hash_of(handle: int, span: TensorSpan) -> str:
    digest = hashlib.sha256()
    _feed(handle, span.begin, span.end, digest)
    return digest.hexdigest()


def _feed(handle: int, begin: int, end: int, *digests: Any) -> None:
    buffer = memoryview(bytearray(min(READ_BYTES, max(0, end - begin))))
    while begin < end:
        part = buffer[: end - begin]
        read_into(handle, part, begin)
        for digest in digests:
            digest.update(part)
        begin += len(part)


def _same_values(base: StoredTensor, result: StoredTensor) -> bool:
    """Whether a tensor holds the base's values, rounded to its own precision."""
    import torch

    return all(
        torch.equal(base.rows(*block).to(rows.dtype), rows)
        for block in row_blocks(base.span)
        for rows in [result.rows(*block)]
    )


def _refuse_other_changes(expected: frozenset[str], changed: frozenset[str]) -> None:
    wrong = [f"{key}: was to change and did not" for key in sorted(expected - changed)]
    wrong += [f"{key}: changed and was not to" for key in sorted(changed - expected)]
    if wrong:
        raise StageError(
            f"{len(changed & expected)} tensors changed where {len(expected)} were trained or had"
            " been in 4-bit",
            RETRAIN,
            problems=wrong[:5],
        )


def _refuse_unused(keys: frozenset[str], used: Counter[str]) -> None:
    wrong = sorted(key for key in keys | set(used) if used[key] != 1 or key not in keys)
    if wrong:
        raise StageError(
            f"{len(wrong)} of the adapter's {len(keys)} tensors were not used exactly once",
            RETRAIN,
            problems=[f"{key}: used {used[key]} times" for key in wrong[:5]],
        )


def _sample(plan: Plan) -> list[str]:
    """All changed tensors; of those that went through 4-bit a few, spread evenly."""
    costly = sorted(plan.dequantised)
    stride = max(1, -(-len(costly) // SAMPLED_DEQUANTISED))
    return sorted(plan.changes.keys() - plan.dequantised) + costly[::stride]


def _worst_rounding(base: Checkpoint, result: Checkpoint, key: str, change: Change) -> float:
    """Largest departure of some rows from W + sBA, as a share of what one rounding may do.

    Raises:
        StageError: when it is above 1.
    """
    with base.opened(key) as old, result.opened(key) as new:
        rows = change.original(old)
        count = new.span.rows
        chosen = sorted(
            {step * (count - 1) // max(1, SAMPLED_ROWS - 1) for step in range(SAMPLED_ROWS)}
        )
        shares = [_departure(rows(r, r + 1), new.rows(r, r + 1), change, r) for r in chosen]
    worst = max(shares, default=0.0)
    if not worst <= 1:  # NaN too
        raise StageError(
            f"{key} is not the base's tensor with the adapter's update: it departs by"
            f" {worst:.3g} times what one rounding may do",
            DAMAGED,
        )
    return worst


def _departure(before: Any, after: Any, change: Change, row: int) -> float:
    """|W' - (W + sBA)| of one row over half a unit in the last place, in float64."""
    import torch

    exact, noise = before.double(), before.double().abs()
    if change.factors is not None:
        exact, noise = _exact(before.double(), change.factors, row)
    limits = torch.finfo(after.dtype)
    # eps is the distance of 1 to the next number: half of it is the largest relative rounding.
    # float32, in which it was computed, adds less than 2^-18 of the sizes that were added up.
    allowed = exact.abs() * (limits.eps / 2) + noise * 2**-18 + limits.smallest_normal * limits.eps
    return float(((after.double() - exact).abs() / allowed).max()) if exact.numel() else 0.0


def _exact(row: Any, factors: Any, number: int) -> tuple[Any, Any]:
    """W + sBA of one row in float64, and the sum of the sizes that went into each value."""
    up, down = factors.up[number : number + 1].double(), factors.down.double()
    exact = row + factors.scale * (up @ down)
    noise = row.abs() + abs(factors.scale) * (up.abs() @ down.abs())
    if factors.magnitude is None:
        return exact, noise
    ratio = factors.magnitude[number].double() / (exact * exact).sum().sqrt()
    return exact * ratio, noise * ratio.abs()
