"""Which tensor of the base becomes what: decided, and refused, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from vlmpipe.config.train import QuantizationSection
from vlmpipe.errors import StageError
from vlmpipe.export.merging.adapter import RETRAIN, Adapter, missing_modules, missing_parameters
from vlmpipe.export.merging.dequantised import four_bit_keys, through_four_bits
from vlmpipe.export.merging.fold import Change, Original, as_stored, whole
from vlmpipe.export.merging.weights import Checkpoint
from vlmpipe.models.checkpoint_keys import checkpoint_key, parameter_name
from vlmpipe.models.families import Family

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"


@dataclass(frozen=True)
class HeldIn:
    """How a 4-bit base was held while its adapter was trained."""

    quantization: QuantizationSection
    dtype: str
    """Precision that it was loaded in."""


@dataclass(frozen=True)
class Plan:
    """Every tensor that is not simply copied, by checkpoint key."""

    changes: Mapping[str, Change]
    adapted: frozenset[str] = frozenset()
    replaced: frozenset[str] = frozenset()
    dequantised: frozenset[str] = frozenset()
    """Tensors that were in 4-bit, where those are what is folded into."""

    adapter_keys: frozenset[str] = frozenset()


def plan_adapter(
    base: Checkpoint, family: Family, adapter: Adapter, held_in: HeldIn | None
) -> Plan:
    """Where each part of an adapter goes; with `held_in`, into what the 4-bit base really held.

    Raises:
        StageError: when the adapter names modules that the base does not have, or lacks some that
            it targets, or shapes differ.
    """
    _refuse_missing(adapter, {parameter_name(family, key) for key in base.keys})
    weights = {f"{module}.weight": module for module in adapter.factors}
    places = _places([*weights, *adapter.replaced], family, base)
    original: Original = as_stored
    dequantised = frozenset[str]()
    if held_in is not None:
        original = through_four_bits(held_in.quantization, held_in.dtype)
        dequantised = four_bit_keys(base.spans.values(), family)
    changes = {key: Change(original) for key in dequantised}
    for name, module in weights.items():
        key, factors = places[name], adapter.factors[module]
        _refuse_other_shape(base, key, (factors.up.shape[0], factors.down.shape[1]))
        under = original if key in dequantised else as_stored
        changes[key] = Change(under, factors, adapter.keys_of(module))
    for name, tensor in adapter.replaced.items():
        _refuse_other_shape(base, places[name], tuple(tensor.shape))
        changes[places[name]] = Change(whole(partial(_same, tensor)), keys=adapter.keys_of(name))
    return Plan(
        changes=changes,
        adapted=frozenset(places[name] for name in weights),
        replaced=frozenset(places[name] for name in adapter.replaced),
        dequantised=dequantised,
        adapter_keys=adapter.keys,
    )


def plan_full(base: Checkpoint, family: Family, trained: Checkpoint) -> Plan:
    """The trained tensor for each of the base's.

    Raises:
        StageError: when the two hold different tensors, or shapes differ.
    """
    source = _trained_keys(base, family, trained)
    floating = {key: found for key, found in source.items() if base.spans[key].dtype}
    for key, found in floating.items():
        _refuse_other_shape(base, key, trained.spans[found].shape)
    changes = {
        key: Change(whole(partial(trained.tensor, found))) for key, found in floating.items()
    }
    return Plan(changes=changes, replaced=frozenset(changes))


def _same(tensor: Any) -> Any:
    return tensor


def _refuse_missing(adapter: Adapter, parameters: set[str]) -> None:
    modules = {name.removesuffix(".weight") for name in parameters}
    missing = missing_modules(adapter, modules) + missing_parameters(adapter, parameters)
    if missing:
        raise StageError(
            f"the adapter lacks {len(missing)} of the modules that it targets",
            RETRAIN,
            problems=missing[:5],
        )


def _refuse_other_shape(base: Checkpoint, key: str, shape: tuple[int, ...]) -> None:
    span = base.spans[key]
    if span.dtype is None:
        raise StageError(
            f"{key} is stored as {span.code}: a quantised model is no base to fold into",
            "give the 16-bit model that it was made from: model.id=ID_OR_FOLDER",
        )
    if shape != span.shape:
        raise StageError(
            f"what was trained for {key} has shape {list(shape)}, the base's tensor"
            f" {list(span.shape)}: it belongs to another model",
            RETRAIN,
        )


def _places(names: Iterable[str], family: Family, base: Checkpoint) -> dict[str, str]:
    """The checkpoint key of each parameter; every one must have exactly one place."""
    places = {name: _place(name, family, base) for name in names}
    lost = sorted(name for name, key in places.items() if key is None)
    if lost:
        raise StageError(
            f"{len(lost)} trained tensors have no place in {base.folder}: the adapter belongs to"
            " another model, or names its modules otherwise than this version of transformers",
            RETRAIN,
            problems=[_with_present_name(name, family, base) for name in lost[:5]],
        )
    return {name: key for name, key in places.items() if key is not None}


def _place(name: str, family: Family, base: Checkpoint) -> str | None:
    """Only under the present names: by other ones, training and validation saw no adapter."""
    if parameter_name(family, name) != name:
        return None
    return checkpoint_key(family, name, base.keys)


def _with_present_name(name: str, family: Family, base: Checkpoint) -> str:
    present = parameter_name(family, name)
    if present != name and checkpoint_key(family, present, base.keys):
        return f"{name}, which is called {present} now"
    return name


def _is_tied(key: str, embedding: str | None, trained: Checkpoint) -> bool:
    import torch

    if key != HEAD or embedding is None:
        return False
    return torch.equal(trained.tensor(key), trained.tensor(embedding))


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
