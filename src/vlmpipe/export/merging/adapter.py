"""A PEFT LoRA adapter as pairs of factors by module name; what cannot be folded is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.errors import StageError
from vlmpipe.export.merging.fold import Factors
from vlmpipe.export.merging.safetensors_stream import open_shard

PREFIX = "base_model.model."
CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
RETRAIN = "train again: `vlmpipe run-all --force train`"

FOREIGN_INITIALISATIONS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations of PEFT that alter the base weights: folding into the original ones is wrong."""

_REFUSED_WHEN_SET = (
    "use_qalora",
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_bdlora",
    "kasa_config",
    "arrow_config",
    "velora_config",
    "monteclora_config",
    "megatron_config",
)


@dataclass(frozen=True)
class Adapter:
    """Everything that training changed."""

    folder: Path
    keys: frozenset[str]
    """Every key of its file."""

    factors: Mapping[str, Factors]
    """By module name, `model.language_model.layers.0.self_attn.q_proj`."""

    replaced: Mapping[str, Any]
    """Whole tensors by parameter name: parts that were unfrozen."""

    rank: int
    scale: float
    target_modules: str | tuple[str, ...]
    saved_modules: tuple[str, ...] = ()
    """Modules that were unfrozen, by full name or by the last parts of it (modules_to_save)."""

    def keys_of(self, name: str) -> tuple[str, ...]:
        """Keys of the file that hold the factors of a module, or a replaced tensor."""
        own = f"{PREFIX}{name}"
        return tuple(
            sorted(key for key in self.keys if key == own or key.startswith(f"{own}.lora_"))
        )


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter folder; whole tensors in it are unfrozen parts (PEFT's modules_to_save).

    Raises:
        StageError: for a kind of adapter that cannot be folded, factors that do not fit each
            other or the configuration, keys of neither kind, and values that are not finite.
    """
    settings = _read_settings(folder / CONFIG_NAME)
    _refuse_unsupported(settings, folder)
    tensors = _read_tensors(folder / WEIGHTS_NAME)
    pairs, others = _paired(tensors)
    saved = tuple(settings.get("modules_to_save") or ())
    _refuse_unexpected(others, saved, folder / WEIGHTS_NAME)
    factors = {module: _factors(module, pair, settings) for module, pair in pairs.items()}
    # Those two narrow the targets further; then only pairs that are there can be judged.
    narrowed = settings.get("layers_to_transform") or settings.get("exclude_modules")
    targets = () if narrowed else settings.get("target_modules") or ()
    return Adapter(
        folder=folder,
        keys=frozenset(tensors),
        factors=factors,
        replaced=others,
        rank=int(settings["r"]),
        scale=_scale(settings, int(settings["r"]), int(settings["lora_alpha"])),
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        saved_modules=saved,
    )


def missing_modules(adapter: Adapter, modules: Iterable[str]) -> list[str]:
    """Modules that the adapter's configuration targets and for which it brings no factors."""
    targets = adapter.target_modules
    if isinstance(targets, str):
        matches = (name for name in modules if re.fullmatch(targets, name))
    else:
        ends = tuple(f".{target}" for target in targets)
        matches = (name for name in modules if name in targets or name.endswith(ends))
    return sorted(set(matches) - set(adapter.factors))


def missing_parameters(adapter: Adapter, parameters: Iterable[str]) -> list[str]:
    """Parameters of unfrozen modules for which the adapter brings no tensor."""
    wanted = (name for name in parameters if _is_saved(name, adapter.saved_modules))
    return sorted(set(wanted) - set(adapter.replaced))


def refuse_non_finite(name: str, tensor: Any, where: Path) -> None:
    """Raise StageError when a tensor holds an infinity or a NaN."""
    if not bool(tensor.isfinite().all()):
        raise StageError(
            f"{where}: {name} holds values that are not finite",
            "train again with a smaller step: train.learning_rate=1e-4",
        )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        _ = settings["r"], settings["lora_alpha"], settings["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StageError(f"{path} cannot be read as an adapter's settings: {exc}", RETRAIN) from exc
    return dict(settings)


def _refuse_unsupported(settings: Mapping[str, Any], folder: Path) -> None:
    problems = [f"{key}: {settings[key]!r}" for key in _REFUSED_WHEN_SET if settings.get(key)]
    if settings["peft_type"] != "LORA":
        problems.append(f"peft_type: {settings['peft_type']!r}")
    if settings.get("bias", "none") != "none":
        problems.append(f"bias: {settings['bias']!r}")
    start = str(settings.get("init_lora_weights", True)).lower()
    if start.startswith(FOREIGN_INITIALISATIONS):
        problems.append(f"init_lora_weights: {settings['init_lora_weights']!r}")
    if problems:
        raise StageError(
            f"the adapter in {folder} is of a kind that cannot be folded into the base weights",
            "train plain LoRA with this package: `vlmpipe run-all --force train`",
            problems=problems,
        )


def _refuse_unexpected(others: Iterable[str], saved: Iterable[str], path: Path) -> None:
    strangers = sorted(name for name in others if not _is_saved(name, saved))
    if strangers:
        raise StageError(
            f"{path} holds {len(strangers)} tensors that belong to no LoRA pair and to no module"
            " of modules_to_save",
            RETRAIN,
            problems=strangers[:5],
        )


def _is_saved(parameter: str, saved: Iterable[str]) -> bool:
    return any(f".{module}." in f".{parameter}" for module in saved)


def _read_tensors(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise StageError(f"{path} is missing", RETRAIN)
    with open_shard(path) as stream:
        tensors = {key: stream.get_tensor(key) for key in sorted(stream.keys())}
    for key, tensor in tensors.items():
        refuse_non_finite(key, tensor, path)
    return tensors


def _paired(tensors: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Factors by module and side (`A`, `B`; `M`, DoRA's magnitude), and whole tensors by name."""
    pairs: dict[str, dict[str, Any]] = {}
    others: dict[str, Any] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        match = re.fullmatch(r"(.+)\.lora_(?:([AB])\.weight|magnitude_vector(?:\.weight)?)", name)
        if match:
            pairs.setdefault(match[1], {})[match[2] or "M"] = tensor
        else:
            others[name] = tensor
    return pairs, others


def _factors(module: str, pair: Mapping[str, Any], settings: Mapping[str, Any]) -> Factors:
    wanted = {"A", "B", "M"} if settings.get("use_dora") else {"A", "B"}
    if set(pair) != wanted:
        raise StageError(
            f"the adapter of {module} has the parts {sorted(pair)} where {CONFIG_NAME} asks for"
            f" {sorted(wanted)} (M: the magnitude of DoRA)",
            RETRAIN,
        )
    rank = int(_by_pattern(module, settings.get("rank_pattern"), settings["r"]))
    alpha = int(_by_pattern(module, settings.get("alpha_pattern"), settings["lora_alpha"]))
    down, up = pair["A"], pair["B"]
    if down.shape[0] != rank or up.shape[1] != rank:
        raise StageError(
            f"the adapter of {module} has rank {down.shape[0]} (A) and {up.shape[1]} (B);"
            f" {CONFIG_NAME} says {rank}: the two files are of different trainings",
            RETRAIN,
        )
    magnitude = pair["M"].float().reshape(-1) if "M" in pair else None
    return Factors(down.float(), up.float(), _scale(settings, rank, alpha), magnitude)


def _by_pattern(module: str, patterns: Mapping[str, Any] | None, default: Any) -> Any:
    """The value of the first pattern that matches the module's end, as PEFT reads them."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _scale(settings: Mapping[str, Any], rank: int, alpha: int) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv 2312.03732)."""
    return alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
