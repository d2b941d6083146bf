"""Everything in a model folder that is not weights, brought in line with the contract."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.models.families import FAMILIES, read_model_config
from vlmpipe.models.loading import load_tokenizer

LEFT_BEHIND = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".py")
"""Other weights, which the merge would belie, and code, which no artifact of ours carries."""

TEMPLATE_NAME = "chat_template.jinja"


def copy_model_files(base: Path, target: Path, contract: PreprocessContract, *, dtype: str) -> None:
    """Copy configuration, tokenizer and processor; state the contract's template and pixels.

    `dtype` is the precision of the weights that go with them.
    """
    for path in sorted(base.iterdir()):
        if path.is_file() and _is_carried(path):
            shutil.copyfile(path, target / path.name)
    _write_config(target, contract, dtype)
    _write_template(target, contract)
    _write_generation_config(target, contract)
    if contract.has_vision:
        _write_processor(target, contract)


def _is_carried(path: Path) -> bool:
    name = path.name
    if name.startswith(".") or name.endswith(".index.json") or name == "README.md":
        return False
    return path.suffix not in LEFT_BEHIND


def _write_config(folder: Path, contract: PreprocessContract, dtype: str) -> None:
    config = read_model_config(folder)
    config["architectures"] = [FAMILIES[contract.family].architecture]
    old_name = "torch_dtype" in config
    for part in [config, *(v for v in config.values() if isinstance(v, dict))]:
        for name in ("dtype", "torch_dtype"):
            if name in part:
                part[name] = dtype
    config["torch_dtype" if old_name else "dtype"] = dtype
    _write(folder / "config.json", config)


def _write_template(folder: Path, contract: PreprocessContract) -> None:
    """The template stands wherever some reader looks for it."""
    (folder / TEMPLATE_NAME).write_text(contract.chat_template, encoding="utf-8")
    settings = _read(folder / "tokenizer_config.json")
    _write(folder / "tokenizer_config.json", {**settings, "chat_template": contract.chat_template})
    old = folder / "chat_template.json"
    if old.is_file():
        _write(old, {"chat_template": contract.chat_template})


def _write_generation_config(folder: Path, contract: PreprocessContract) -> None:
    """The base's own settings, with every stop token of the contract among the ends."""
    settings = _read(folder / "generation_config.json")
    tokenizer = load_tokenizer(folder)
    given = settings.get("eos_token_id", [])
    ends = [int(each) for each in tokenizer.convert_tokens_to_ids(list(contract.stop_tokens))]
    ends += [each for each in (given if isinstance(given, list) else [given]) if each not in ends]
    settings = {"do_sample": False, **settings, "eos_token_id": ends}
    if tokenizer.pad_token_id is not None:
        settings.setdefault("pad_token_id", tokenizer.pad_token_id)
    _write(folder / "generation_config.json", settings)


def _write_processor(folder: Path, contract: PreprocessContract) -> None:
    """preprocessor_config.json, and the copy of it that processor_config.json may hold."""
    limits = {
        "patch_size": contract.patch_size,
        "merge_size": contract.merge_size,
        "temporal_patch_size": contract.temporal_patch_size,
        "image_mean": list(contract.image_mean),
        "image_std": list(contract.image_std),
        "min_pixels": contract.min_pixels,
        "max_pixels": contract.max_pixels,
        "size": {"shortest_edge": contract.min_pixels, "longest_edge": contract.max_pixels},
    }
    settings = _read(folder / "preprocessor_config.json")
    settings.setdefault("image_processor_type", "Qwen2VLImageProcessor")
    _write(folder / "preprocessor_config.json", {**settings, **limits})
    whole = folder / "processor_config.json"
    if whole.is_file():
        processor = _read(whole)
        processor["image_processor"] = {**processor.get("image_processor", {}), **limits}
        _write(whole, processor)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
