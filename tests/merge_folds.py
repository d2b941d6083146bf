"""Folding adapters into small bases, and damaging what the fold is given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import export_models as models
from vlmpipe.export.merging.adapter import read_adapter
from vlmpipe.export.merging.merge import MergeReport, merge_adapter
from vlmpipe.export.merging.model_files import copy_model_files
from vlmpipe.export.merging.plan import HeldIn
from vlmpipe.export.merging.weights import INDEX_NAME, Checkpoint
from vlmpipe.models.families import FAMILIES


def lazy_bases(folder: Path) -> Callable[[str], Path]:
    """Each family's base, built when it is first asked for."""

    def base(family: str) -> Path:
        if not (folder / family).is_dir():
            models.random_base(family, folder / family)
        return folder / family

    return base


def fold(
    base: Path,
    adapter: Path,
    family: str,
    target: Path,
    *,
    dtype: str = "auto",
    held_in: HeldIn | None = None,
    run: str = "a run",
) -> MergeReport:
    target.mkdir(parents=True)
    report = merge_adapter(
        Checkpoint(base),
        FAMILIES[family],
        read_adapter(adapter),
        target,
        dtype=dtype,
        held_in=held_in,
        lineage={"vlmpipe.run": run},
    )
    copy_model_files(base, target, models.contract_of(family), dtype=report.dtype)
    return report


def in_shards(base: Path, folder: Path, count: int = 3) -> Path:
    """A copy of the base in several files with an order, names and metadata of their own."""
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places: dict[str, str] = {}
    for number in range(count):
        name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        part = {key: weights[key] for key in list(weights)[number::count]}
        save_file(part, folder / name, metadata={"format": "pt", "part": str(number)})
        places |= dict.fromkeys(part, name)
    size = sum(tensor.nbytes for tensor in weights.values())
    index = {"metadata": {"total_size": size, "note": "the base's"}, "weight_map": places}
    (folder / INDEX_NAME).write_text(json.dumps(index))
    return folder


def copied(adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter, tmp_path / "other"))


def edit_settings(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensor(path: Path, key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(path)
    tensors[key] = change(tensors[key])
    save_file(tensors, path, metadata={"format": "pt"})


def rename_keys(path: Path, old: str, new: str) -> None:
    tensors = {key.replace(old, new): value for key, value in load_file(path).items()}
    save_file(tensors, path)
