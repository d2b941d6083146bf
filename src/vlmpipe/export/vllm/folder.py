"""A folder for vLLM: the merged model with its language layers quantised by llm-compressor.

Tower, merger, head and embeddings keep their 16 bits. What was quantised is counted in the folder
that was written, not taken from the recipe.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines.hf import HfEngine
from vlmpipe.errors import ArtifactError, StageError, ToolError
from vlmpipe.models.families import FAMILIES, Family, read_model_config
from vlmpipe.models.loading import load_model, load_tokenizer
from vlmpipe.system.process import answer_of, run_program

Scheme = Literal["fp8", "awq", "gptq"]
CALIBRATED: tuple[Scheme, ...] = ("awq", "gptq")
GROUP_SIZES = (128, 64, 32)
"""Weights that share a 4-bit scale; vLLM's kernels know these."""

ATTENTION_AND_FFN = 7
"""Linear layers in each block of the language model."""

NOT_CARRIED = (".safetensors", ".index.json", ".npz")
IMPORT_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class VllmExport:
    """What was written."""

    folder: str
    scheme: Scheme
    quantised_layers: int
    size_bytes: int
    calibration_samples: int
    llmcompressor: str
    """Version."""

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def export_for_vllm(
    model: Path,
    target: Path,
    scheme: Scheme,
    contract: PreprocessContract,
    samples: Sequence[Sample],
    *,
    log: Path,
    python: Path | None = None,
) -> VllmExport:
    """Quantise the merged folder `model` into the new folder `target`.

    `samples` calibrate awq and gptq, images included. `python` is that of an environment with
    llm-compressor; None is this process's own.

    Raises:
        ToolError: when llm-compressor is not installed there, or fails.
        StageError: when a layer's width cannot be cut into groups, or samples are wanting.
        ArtifactError: when other layers were quantised than those of the language model.
    """
    family = FAMILIES[contract.family]
    interpreter = python or Path(sys.executable)
    version = compressor_version(interpreter)
    used = samples if scheme in CALIBRATED else ()
    if scheme in CALIBRATED and not used:
        raise StageError(f"convert.vllm={scheme} calibrates on samples, and there are none")
    with TemporaryDirectory(prefix="vlmpipe-vllm-") as scratch:
        order = _order(model, target, scheme, family, scratch)
        if used:
            _write_samples(Path(scratch), model, contract, used)
        run_program(
            [interpreter, Path(__file__).with_name("child_compress.py"), json.dumps(order)],
            what=f"quantising for vLLM ({scheme})",
            log=log,
            env={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
    _complete(model, target, contract)
    return VllmExport(
        folder=target.name,
        scheme=scheme,
        quantised_layers=check_quantised(target, family),
        size_bytes=sum(path.stat().st_size for path in target.glob("*.safetensors")),
        calibration_samples=len(used),
        llmcompressor=version,
    )


def _order(
    model: Path, target: Path, scheme: Scheme, family: Family, scratch: str
) -> dict[str, Any]:
    """What the child is told."""
    calibrated = scheme in CALIBRATED
    return {
        "model": str(model),
        "target": str(target),
        "scheme": scheme,
        "vision": family.has_vision,
        "ignore": ignored_modules(family),
        "layers": family.layer_pattern,
        "samples": scratch if calibrated else None,
        "group_size": group_size(model) if calibrated else 0,
    }


def open_vllm_export(folder: Path, contract: PreprocessContract) -> HfEngine:
    """The folder in transformers, as a rung of the ladder; it needs compressed-tensors.

    Raises:
        ToolError: when compressed-tensors is not installed.
        ArtifactError: when the folder cannot be loaded whole.
    """
    try:
        import compressed_tensors  # noqa: F401
    except ImportError as exc:
        raise ToolError(
            f"a folder quantised for vLLM is read with compressed-tensors: {exc}",
            "install it beside this project: `pip install compressed-tensors`",
        ) from exc
    encoder = Encoder(load_tokenizer(folder), contract)
    return HfEngine(load_model(folder), encoder, f"vllm:{folder.name}")


def ignored_modules(family: Family) -> list[str]:
    """Patterns of the modules that stay as they are, by transformers' names and checkpoints'."""
    tower = [r".*visual\..*"] if family.has_vision else []
    return [*tower, ".*lm_head"]


def group_size(model: Path) -> int:
    """The largest group that every layer's input width is a multiple of.

    Raises:
        StageError: when there is none.
    """
    config = read_model_config(model)
    text = config.get("text_config") or config
    heads = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    widths = {
        "hidden_size": text["hidden_size"],
        "intermediate_size": text["intermediate_size"],
        "attention width": heads * text["num_attention_heads"],
    }
    for size in GROUP_SIZES:
        if not any(width % size for width in widths.values()):
            return size
    named = ", ".join(f"{name} {width}" for name, width in widths.items())
    raise StageError(
        f"4-bit groups need widths that are multiples of {GROUP_SIZES[-1]}: {named}",
        "quantise without groups: convert.vllm=fp8",
    )


def check_quantised(folder: Path, family: Family) -> int:
    """Count the quantised layers that were written.

    Raises:
        ArtifactError: when they are not the language model's linear layers, all and only.
    """
    from safetensors import safe_open

    names: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="numpy") as file:
            names += list(file.keys())
    scaled = {name.removesuffix(".weight_scale") for name in names if "weight_scale" in name}
    language = re.compile(r"(?:.*\.)?layers\.\d+\.(?:self_attn|mlp)\.\w+_proj")
    strangers = sorted(name for name in scaled if "visual" in name or not language.fullmatch(name))
    config = read_model_config(folder)
    blocks = (config.get("text_config") or config)["num_hidden_layers"]
    wanted = ATTENTION_AND_FFN * blocks
    if strangers or len(scaled) != wanted:
        raise ArtifactError(
            f"{folder} has {len(scaled)} quantised layers, the {family.title} language model has"
            f" {wanted}",
            problems=[f"not of the language model: {name}" for name in strangers[:5]],
        )
    return len(scaled)


def compressor_version(python: Path) -> str:
    """Version of llm-compressor in an environment.

    Raises:
        ToolError: when it is not installed there.
    """
    code = "import importlib.metadata as m; print(m.version('llmcompressor'))"
    found = answer_of([python, "-c", code], timeout_s=IMPORT_TIMEOUT_S)
    if found is None:
        raise ToolError(
            f"llm-compressor, which quantises for vLLM, is not installed in {python}",
            "give it an environment of its own: `python -m venv llmc && llmc/bin/pip install"
            " llmcompressor`, then convert.vllm_python=llmc/bin/python",
            "or leave this export out: convert.vllm=null",
        )
    return found.strip()


def _write_samples(
    folder: Path, model: Path, contract: PreprocessContract, samples: Sequence[Sample]
) -> None:
    """Each conversation as the arrays that the model takes, by this project's own encoder."""
    import numpy as np

    encoder = Encoder(load_tokenizer(model), contract)
    for index, sample in enumerate(samples):
        encoded = encoder.encode_sample(sample.messages)
        ids = np.array([encoded.input_ids])
        arrays: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if encoded.pixel_values is not None and encoded.image_grid_thw is not None:
            arrays["mm_token_type_ids"] = np.array([encoded.image_mask])
            arrays["pixel_values"] = encoded.pixel_values
            arrays["image_grid_thw"] = encoded.image_grid_thw
        np.savez(folder / f"{index:05}.npz", **arrays)


def _complete(model: Path, target: Path, contract: PreprocessContract) -> None:
    """Tokenizer, template, processor and contract beside the weights; a list of kept modules that
    vLLM and transformers, which name the tower differently, both understand.
    """
    for path in sorted(model.iterdir()):
        carried = path.is_file() and not path.name.endswith(NOT_CARRIED)
        if carried and not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)
    contract.write(target)
    config = read_model_config(target)
    kept = config["quantization_config"]["ignore"]
    patterns = [f"re:{each}" for each in ignored_modules(FAMILIES[contract.family])]
    config["quantization_config"]["ignore"] = [*patterns, *kept]
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (target / "config.json").write_text(text, encoding="utf-8")
