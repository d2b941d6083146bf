"""Everything beside the image that features depend on: where it differs, none are shared."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.training.vision_cache.tower import tower_of

if TYPE_CHECKING:
    import torch

SCHEMA = 1
"""Of what is computed and how it is stored; a new one leaves older folders unread."""


@dataclass(frozen=True)
class Namespace:
    """One tower in one arithmetic on one kind of device."""

    facts: dict[str, Any]
    """Ready for JSON; kept beside the shards, so that a person can see what a folder is."""

    @cached_property
    def digest(self) -> bytes:
        """32 bytes: sha256 of the facts' canonical JSON."""
        text = json.dumps(self.facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.digest.hex()[:32]


def namespace_of(
    model: Any, contract: PreprocessContract, autocast_dtype: torch.dtype | None
) -> Namespace:
    """The namespace of a loaded model's tower as it stands; a second for a tower of 0.7 B."""
    tower = tower_of(model)
    return Namespace(
        {
            "schema": SCHEMA,
            "tower": {
                "family": contract.family,
                "weights_sha256": weights_digest(tower),
                "config": _config_of(tower),
                "dtype": str(tower.dtype),
                "attn_implementation": tower.config._attn_implementation,
            },
            "autocast": str(autocast_dtype) if autocast_dtype is not None else None,
            "image": {
                "mean": list(contract.image_mean),
                "std": list(contract.image_std),
                "patch_size": contract.patch_size,
                "merge_size": contract.merge_size,
                "temporal_patch_size": contract.temporal_patch_size,
            },
            "device": _device_facts(next(tower.parameters()).device),
            "versions": {name: version(name) for name in ("torch", "transformers", "pillow")},
        }
    )


def weights_digest(tower: Any) -> str:
    """sha256 over names, types, shapes and bytes of all weights and buffers of a module."""
    import torch

    digest = hashlib.sha256()
    tensors = [*tower.named_parameters(), *tower.named_buffers()]
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _config_of(tower: Any) -> dict[str, Any]:
    """The tower's shape; without what only says where it came from."""
    settings: dict[str, Any] = json.loads(tower.config.to_json_string(use_diff=False))
    dropped = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")
    return {key: value for key, value in settings.items() if key not in dropped}


def _device_facts(device: torch.device) -> dict[str, Any]:
    """What decides how a device rounds."""
    import torch

    precision = torch.get_float32_matmul_precision()
    if device.type != "cuda":
        return {
            "type": device.type,
            "name": _processor_name(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            # Sums are cut into as many parts as there are threads.
            "threads": torch.get_num_threads(),
            "float32_matmul_precision": precision,
        }
    return {
        "type": device.type,
        "name": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
        "float32_matmul_precision": precision,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
