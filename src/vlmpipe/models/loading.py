"""Model folders to transformers models and tokenizers; heavy imports stay in here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmpipe.config.train import QuantizationSection
from vlmpipe.errors import ArtifactError, StageError
from vlmpipe.models.families import Family, family_of
from vlmpipe.models.quiet import quiet_transformers

TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model folder.

    Raises:
        ArtifactError: when the folder holds none that can be read.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        # transformers would build an empty one and go on.
        raise ArtifactError(
            f"{folder} holds no tokenizer: neither {' nor '.join(TOKENIZER_FILES)}",
            "copy the base model's tokenizer files beside its weights",
        )
    with quiet_transformers():
        try:
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as exc:
            raise ArtifactError(
                f"the tokenizer in {folder} cannot be read: {str(exc).splitlines()[0]}",
                "the folder needs tokenizer.json and tokenizer_config.json",
            ) from exc


def load_model(
    folder: Path,
    *,
    dtype: str = "float32",
    quantization: QuantizationSection | None = None,
    attn_implementation: str = "sdpa",
    device: str | None = None,
) -> Any:
    """The model on a device, unset on the machine's best one, in evaluation mode.

    `dtype` is the precision outside 4-bit. With `quantization`, the language model's linear layers
    are held in 4-bit; tower, merger and head never are (held against a census by the trainer).

    Raises:
        ArtifactError: when weights are missing, left over, or unreadable.
        StageError: when the weights do not fit into memory.
    """
    import torch
    from safetensors import SafetensorError

    family = family_of(folder)
    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "attn_implementation": attn_implementation,
        "local_files_only": True,
        "output_loading_info": True,
        "device_map": {"": device or best_device()},
    }
    if quantization is not None:
        options["quantization_config"] = quantization_config(family, quantization)
    with quiet_transformers():
        try:
            model, info = _auto_class(family).from_pretrained(str(folder), **options)
        except SafetensorError as exc:
            raise ArtifactError(f"weights in {folder} are damaged: {exc}") from exc
        except torch.OutOfMemoryError as exc:
            raise StageError(
                f"the model in {folder} does not fit into the GPU's memory",
                "hold it in 4-bit: train.method=qlora",
                "or choose a smaller one: model.id=ID",
            ) from exc
    _refuse_incomplete(folder, family, info)
    if quantization is not None:
        _keep_4bit_layout(model)
    return model.eval()


def quantization_config(family: Family, section: QuantizationSection) -> Any:
    """bitsandbytes' settings for the language model alone."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=section.type,
        bnb_4bit_use_double_quant=section.double_quant,
        bnb_4bit_compute_dtype=getattr(torch, section.compute_dtype),
        llm_int8_skip_modules=family.unquantized_modules,
    )


def best_device() -> str:
    """`cuda` of this process where there is a GPU, else `cpu`."""
    import os

    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def release_memory() -> None:
    """Give back what dropped models held: torch keeps a GPU's memory for itself otherwise."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def resolve_dtype(name: str) -> str:
    """`auto` to what the device computes well: bfloat16, or float16 on a GPU without it."""
    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float16"
    return "bfloat16"


def _auto_class(family: Family) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if family.has_vision else AutoModelForCausalLM


def _refuse_incomplete(folder: Path, family: Family, info: dict[str, Any]) -> None:
    """transformers fills missing weights with random ones and only warns."""
    missing = sorted(info.get("missing_keys", ()))
    unexpected = sorted(info.get("unexpected_keys", ()))
    problems = [f"missing: {key}" for key in missing[:5]]
    problems += [f"unknown to {family.architecture}: {key}" for key in unexpected[:5]]
    if problems:
        raise ArtifactError(
            f"the weights in {folder} are not those of its architecture"
            f" ({len(missing)} missing, {len(unexpected)} unknown)",
            "give a complete model folder: model.id=DIR",
            problems=problems,
        )


def _keep_4bit_layout(model: Any) -> None:
    """Keep bitsandbytes from repacking weights on CPUs with AVX512-BF16.

    It repacks at the first evaluation, for good; the packed layout has no backward pass, and a
    training that goes on after an evaluation fails.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
