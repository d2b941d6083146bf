"""Quantises a merged folder for vLLM with llm-compressor, by the Python that has it installed.

It asks for other releases of transformers than this project is pinned to, so it runs in an
environment of its own and this file imports nothing of the project. The program takes one JSON
object as its argument: `model` and `target` (folders), `scheme` (fp8, awq or gptq), `vision`,
`ignore` and `layers` (patterns of module names, as `re` matches them), `samples` (a folder of .npz
files with one conversation's tensors each, or null), `group_size`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main(order: dict[str, Any]) -> None:
    """Load, quantise, save; prints llm-compressor's version as its last line."""
    import llmcompressor
    import torch
    from llmcompressor import oneshot

    if not torch.cuda.is_available():
        # AWQ pins what it keeps of a calibration, which PyTorch refuses without a GPU.
        torch.Tensor.pin_memory = lambda tensor, *_: tensor  # type: ignore[method-assign]
    model = load(Path(order["model"]), vision=order["vision"])
    options: dict[str, Any] = {}
    if order["samples"]:
        batches: Any = list(batches_of(Path(order["samples"])))
        loader: Any = torch.utils.data.DataLoader(batches, batch_size=None)
        # The whole model is run for each sample: the sequential pipeline traces it part by part,
        # and a tower whose loops depend on the image's size does not trace.
        options = {
            "dataset": loader,
            "processor": tokenizer_of(Path(order["model"])),
            "num_calibration_samples": len(batches),
            "pipeline": "basic",
        }
    oneshot(model=model, recipe=recipe_of(order), **options)
    model.save_pretrained(order["target"], save_compressed=True)
    sys.stdout.write(f"llmcompressor {llmcompressor.__version__}\n")


def load(folder: Path, *, vision: bool) -> Any:
    """The model in the precision that it is stored in."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    return kind.from_pretrained(str(folder), dtype="auto", local_files_only=True).eval()


def tokenizer_of(folder: Path) -> Any:
    """What llm-compressor wants beside a data set, and with ready tensors never uses; the whole
    processor would need torchvision.
    """
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def batches_of(folder: Path) -> Iterator[dict[str, Any]]:
    """One conversation after the other as the model takes it."""
    import numpy as np
    import torch

    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            yield {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def recipe_of(order: dict[str, Any]) -> list[Any]:
    """llm-compressor's modifiers of a scheme, for the language model's linear layers alone."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier

    common = {"targets": ["Linear"], "ignore": [f"re:{each}" for each in order["ignore"]]}
    if order["scheme"] == "fp8":
        return [QuantizationModifier(scheme="FP8_DYNAMIC", **common)]
    if order["scheme"] == "gptq":
        return [GPTQModifier(config_groups=four_bit(order), ignore=common["ignore"])]
    # By full names: the tower of Qwen2.5-VL has layers of the same last names.
    layer = f"re:{order['layers']}"
    mappings = [
        AWQMapping(
            rf"{layer}\.input_layernorm$", [rf"{layer}\.self_attn\.{p}_proj$" for p in "qkv"]
        ),
        AWQMapping(rf"{layer}\.self_attn\.v_proj$", [rf"{layer}\.self_attn\.o_proj$"]),
        AWQMapping(
            rf"{layer}\.post_attention_layernorm$",
            [rf"{layer}\.mlp\.gate_proj$", rf"{layer}\.mlp\.up_proj$"],
        ),
        AWQMapping(rf"{layer}\.mlp\.up_proj$", [rf"{layer}\.mlp\.down_proj$"]),
    ]
    return [
        AWQModifier(mappings=mappings),
        QuantizationModifier(config_groups=four_bit(order), ignore=common["ignore"]),
    ]


def four_bit(order: dict[str, Any]) -> dict[str, Any]:
    """4-bit weights in groups, activations as they are.

    Symmetric, for AWQ too: transformers 5.23 refuses packed zero points ("size mismatch"), and what
    it cannot load cannot be held against the merged model.
    """
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": order["group_size"],
    }
    return {"group_0": {"targets": ["Linear"], "weights": weights}}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
