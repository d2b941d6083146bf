"""Trained weights into the base's 16-bit tensors, in the base checkpoint's own key layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.errors import StageError
from vlmpipe.export.adapter import RETRAIN, Adapter, Factors, missing_modules
from vlmpipe.export.weights import Checkpoint, ShardWriter
from vlmpipe.models.checkpoint_keys import checkpoint_key, parameter_name
from vlmpipe.models.families import Family

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
Change = Callable[[str, Any], Any | None]
"""From a key and the base's tensor to the trained one, None where nothing was trained."""


@dataclass(frozen=True)
class MergeReport:
    """What became of the base's tensors."""

    tensors: int
    adapted: int
    """Modules that carry an adapter; all language tensors for a full training."""

    changed: int
    """Tensors that an adapter changed, after rounding."""

    replaced: int
    """Whole tensors taken from training: unfrozen parts, or everything for a full training."""

    replaced_changed: int
    dtype: str
    base_dtypes: Mapping[str, int]
    """Count of the base's tensors by precision."""

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
    shard_bytes: int,
) -> MergeReport:
    """W' = W + scale * B @ A in float32, rounded once; parts that were unfrozen are replaced.

    `dtype` is `model.dtype`: see `merged_dtype`.

    Raises:
        StageError: when the adapter names modules that the base does not have, or lacks some that
            it targets; when shapes differ; when a result is not finite; when the number of changed
            tensors is not the number of adapted modules.
    """
    _refuse_missing(adapter, family, base)
    weights = {f"{module}.weight": factors for module, factors in adapter.factors.items()}
    placed: dict[str, Factors] = _placed(weights, family, base)
    replaced: dict[str, Any] = _placed(adapter.replaced, family, base)

    def change(key: str, tensor: Any) -> Any | None:
        if key in placed:
            return _sum(key, tensor, placed[key])
        return replaced.get(key)

    changed, dtypes, name = _rewrite(base, change, target, dtype, shard_bytes)
    _refuse_untouched(set(placed), changed)
    return MergeReport(
        tensors=len(base.keys),
        adapted=len(placed),
        changed=len(changed & set(placed)),
        replaced=len(replaced),
        replaced_changed=len(changed & set(replaced)),
        dtype=name,
        base_dtypes=dtypes,
    )


def merge_full(
    base: Checkpoint,
    family: Family,
    trained: Checkpoint,
    target: Path,
    *,
    dtype: str = "auto",
    shard_bytes: int,
) -> MergeReport:
    """Weights of a full training, cast to 16 bit once and counted against the base.

    Raises:
        StageError: when the two hold different tensors, a value is not finite, or nothing changed.
    """
    source = _trained_keys(base, family, trained)

    def change(key: str, tensor: Any) -> Any | None:
        return trained.tensor(source[key]) if key in source else None

    changed, dtypes, name = _rewrite(base, change, target, dtype, shard_bytes)
    if not changed:
        raise StageError("the trained weights equal the base's: nothing was learned", RETRAIN)
    return MergeReport(
        tensors=len(base.keys),
        adapted=0,
        changed=0,
        replaced=len(source),
        replaced_changed=len(changed),
        dtype=name,
        base_dtypes=dtypes,
    )


def merged_dtype(setting: str, base: str) -> str:
    """Precision of merged weights: float16 when `model.dtype` says so, else the base's own when
    that is a 16-bit one, else bfloat16.
    """
    if setting in ("float16", "bfloat16"):
        return setting
    return base if base in ("float16", "bfloat16") else "bfloat16"


def _refuse_missing(adapter: Adapter, family: Family, base: Checkpoint) -> None:
    modules = {parameter_name(family, key).removesuffix(".weight") for key in base.keys}
    missing = missing_modules(adapter, modules)
    if missing:
        raise StageError(
            f"the adapter lacks {len(missing)} of the modules that it targets",
            RETRAIN,
            problems=missing[:5],
        )


def _refuse_untouched(adapted: set[str], changed: set[str]) -> None:
    untouched = sorted(adapted - changed)
    if untouched:
        raise StageError(
            f"{len(adapted) - len(untouched)} tensors changed for {len(adapted)} adapted modules:"
            " the update of the others vanished in rounding, or is zero",
            "train longer or with larger steps: train.max_steps=N, train.learning_rate=X",
            problems=untouched[:5],
        )


def _placed(named: Mapping[str, Any], family: Family, base: Checkpoint) -> dict[str, Any]:
    """The same values by checkpoint key; every one must have exactly one place."""
    keys = {name: checkpoint_key(family, name, base.keys) for name in named}
    lost = sorted(name for name, key in keys.items() if key is None)
    if lost:
        raise StageError(
            f"{len(lost)} trained tensors have no place in {base.folder}: the adapter belongs to"
            " another model",
            RETRAIN,
            problems=lost[:5],
        )
    return {key: named[name] for name, key in keys.items() if key is not None}


def _sum(key: str, tensor: Any, factors: Factors) -> Any:
    delta = factors.delta()
    if delta.shape != tensor.shape:
        raise StageError(
            f"the adapter's update of {key} has shape {list(delta.shape)}, the base's tensor"
            f" {list(tensor.shape)}: the adapter belongs to another model",
            RETRAIN,
        )
    return tensor.float() + delta


def _is_tied(key: str, embedding: str | None, trained: Checkpoint) -> bool:
    import torch

    if key != HEAD or embedding is None:
        return False
    return torch.equal(trained.tensor(key), trained.tensor(embedding))


def _rewrite(
    base: Checkpoint, change: Change, target: Path, dtype: str, shard_bytes: int
) -> tuple[set[str], dict[str, int], str]:
    """Write every tensor of the base, changed or not.

    Returns the keys whose stored values changed, the base's precisions, and the one written.
    """
    writer = ShardWriter(target, shard_bytes)
    changed: set[str] = set()
    dtypes: dict[str, int] = {}
    written = ""
    for key, tensor in base.tensors():
        if not tensor.is_floating_point():
            writer.add(key, tensor)
            continue
        name = str(tensor.dtype).removeprefix("torch.")
        dtypes[name] = dtypes.get(name, 0) + 1
        written = written or merged_dtype(dtype, name)
        new, differs = _cast(key, tensor, change(key, tensor), written)
        if differs:
            changed.add(key)
        writer.add(key, new)
    writer.close()
    return changed, dtypes, written


def _cast(key: str, tensor: Any, trained: Any | None, dtype: str) -> tuple[Any, bool]:
    """The tensor to store, and whether it differs from the base's in the same precision."""
    import torch

    precision = getattr(torch, dtype)
    before = tensor.to(precision)
    after = before if trained is None else trained.to(precision)
    if after.shape != before.shape:
        raise StageError(
            f"{key} has shape {list(after.shape)} after training and {list(before.shape)} before",
            RETRAIN,
        )
    if not bool(after.isfinite().all()):
        raise StageError(
            f"{key} holds values that are not finite in {dtype}",
            "merge into the wider range of bfloat16: model.dtype=bfloat16",
            "or train again with smaller steps: train.learning_rate=1e-4",
        )
    return after, trained is not None and not torch.equal(before, after)


def _trained_keys(base: Checkpoint, family: Family, trained: Checkpoint) -> dict[str, str]:
    """For each key of the base the trained folder's.

    A head tied to the embedding need not be stored: one that the base alone stores is taken from
    the trained embedding, one that training alone stored must equal it.
    """
    by_parameter = {parameter_name(family, key): key for key in trained.keys}
    embedding = by_parameter.get(f"{family.language_prefix}.{EMBEDDING}")
    source = {key: by_parameter.get(parameter_name(family, key)) for key in base.keys}
    if HEAD in source and source[HEAD] is None:
        source[HEAD] = embedding
    lost = [key for key, found in source.items() if found is None]
    lost += [
        key for key in trained.keys - set(source.values()) if not _is_tied(key, embedding, trained)
    ]
    if lost:
        raise StageError(
            f"{trained.folder} and the base hold different tensors ({len(lost)})",
            RETRAIN,
            problems=sorted(lost)[:5],
        )
    return {key: found for key, found in source.items() if found is not None}
