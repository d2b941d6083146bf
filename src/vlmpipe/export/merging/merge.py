"""Trained weights into the base's 16-bit tensors, streamed over the base's own files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlmpipe.errors import StageError
from vlmpipe.export.merging.adapter import Adapter
from vlmpipe.export.merging.plan import HeldIn, Plan, plan_adapter, plan_full
from vlmpipe.export.merging.proof import MergeProof, ShardProof, prove_merge, prove_shard
from vlmpipe.export.merging.rewrite import rewrite
from vlmpipe.export.merging.safetensors_stream import ShardHeader, publish_shard
from vlmpipe.export.merging.weights import Checkpoint
from vlmpipe.models.families import Family


@dataclass(frozen=True)
class MergeReport:
    """What became of the base's tensors."""

    tensors: int
    adapted: int
    """Modules that carry an adapter; none for a full training."""

    changed: int
    """Adapted tensors whose update survived rounding: all of them."""

    replaced: int
    """Whole tensors taken from training: unfrozen parts, or everything for a full training."""

    replaced_changed: int
    dequantised: int
    """Tensors that were folded into, or replaced by, the values that 4-bit held."""

    dtype: str
    base_dtypes: Mapping[str, int]
    """Count of the base's tensors by precision."""

    proof: MergeProof | None
    """None only where it was left out to measure the merge alone."""

    @property
    def base_was_rounded(self) -> bool:
        """Whether the base itself lost precision: float32 to 16 bit."""
        return set(self.base_dtypes) - {self.dtype} != set()


def merge_adapter(
    base: Checkpoint,
    family: Family,
    adapter: Adapter,
    target: Path,
    *,
    dtype: str = "auto",
    held_in: HeldIn | None = None,
    lineage: Mapping[str, str] | None = None,
    proofs: bool = True,
) -> MergeReport:
    """W' = W + scale * B @ A in float32, rounded once; parts that were unfrozen are replaced.

    `dtype` is `model.dtype`: see `merged_dtype`. With `held_in`, W is what the 4-bit base really
    held. `lineage` goes into the files' metadata. Memory: a few blocks of 1 MiB, and with `held_in`
    a few times the largest tensor.

    Raises:
        StageError: when the adapter names modules that the base does not have, or lacks some that
            it targets; when shapes differ; when a result is not finite; when the proof fails.
    """
    plan = plan_adapter(base, family, adapter, held_in)
    return _merge(base, plan, target, dtype, lineage or {}, proofs)


def merge_full(
    base: Checkpoint,
    family: Family,
    trained: Checkpoint,
    target: Path,
    *,
    dtype: str = "auto",
    lineage: Mapping[str, str] | None = None,
) -> MergeReport:
    """Weights of a full training, cast to 16 bit once, in the base's layout.

    Raises:
        StageError: when the two hold different tensors, a value is not finite, or nothing changed.
    """
    return _merge(base, plan_full(base, family, trained), target, dtype, lineage or {}, True)


def _merge(
    base: Checkpoint,
    plan: Plan,
    target: Path,
    dtype: str,
    lineage: Mapping[str, str],
    proofs: bool,
) -> MergeReport:
    touched = frozenset(plan.changes)

    def seal(shard: ShardHeader, aside: Path) -> ShardProof | None:
        """Publish a shard; what cannot be proven never gets its name."""
        proof = prove_shard(shard, aside, touched, lineage) if proofs else None
        publish_shard(aside)
        return proof

    written = rewrite(base, plan.changes, target, dtype=dtype, lineage=lineage, seal=seal)
    _refuse_vanished(plan.adapted, written.moved)
    shards = [proof for proof in written.sealed if proof is not None]
    proof = None
    if proofs:
        proof = prove_merge(base, Checkpoint(target), plan, shards, written.used)
    return MergeReport(
        tensors=len(base.keys),
        adapted=len(plan.adapted),
        changed=len(plan.adapted & written.moved),
        replaced=len(plan.replaced),
        replaced_changed=proof.replaced_changed if proof else 0,
        dequantised=len(plan.dequantised),
        dtype=written.dtype,
        base_dtypes=written.base_dtypes,
        proof=proof,
    )


def _refuse_vanished(adapted: frozenset[str], moved: frozenset[str]) -> None:
    vanished = sorted(adapted - moved)
    if vanished:
        raise StageError(
            f"{len(adapted) - len(vanished)} tensors changed for {len(adapted)} adapted modules:"
            " the update of the others vanished in rounding, or is zero",
            "train longer or with larger steps: train.max_steps=N, train.learning_rate=X",
            problems=vanished[:5],
        )
