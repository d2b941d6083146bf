"""What 4-bit weights really held, and adapters folded into that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import export_models as models
from merge_folds import edit_tensor, fold, lazy_bases
from vlmpipe.config.train import QuantizationSection
from vlmpipe.errors import StageError
from vlmpipe.export.merging.dequantised import dequantised, four_bit_keys
from vlmpipe.export.merging.plan import HeldIn
from vlmpipe.export.merging.weights import Checkpoint
from vlmpipe.models.checkpoint_keys import parameter_name
from vlmpipe.models.families import FAMILIES
from vlmpipe.models.loading import load_model

NF4 = QuantizationSection()
SECTIONS = [NF4, QuantizationSection(type="fp4", double_quant=False)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return lazy_bases(tmp_path_factory.mktemp("bases"))


def held_in_4_bit(model: Any) -> dict[str, torch.Tensor]:
    """The weights that a loaded model's 4-bit layers multiply with."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    return {
        f"{name}.weight": dequantize_4bit(module.weight.data, module.weight.quant_state)
        for name, module in model.named_modules()
        if isinstance(module, Linear4bit)
    }


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS, ids=["nf4", "fp4"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", models.FAMILY_NAMES)
def test_values_are_bit_by_bit_those_of_a_loaded_model(
    family: str, dtype: str, section: QuantizationSection, bases: Callable[[str], Path]
) -> None:
    base = Checkpoint(bases(family))
    held = held_in_4_bit(load_model(bases(family), dtype=dtype, quantization=section))
    keys = four_bit_keys(base.spans.values(), FAMILIES[family])
    assert {parameter_name(FAMILIES[family], key) for key in keys} == set(held)
    for key in keys:
        ours = dequantised(base.tensor(key), section, dtype)
        theirs = held[parameter_name(FAMILIES[family], key)]
        assert ours.dtype == theirs.dtype == getattr(torch, dtype)
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, base.tensor(key))


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["all", "attention"])
def test_adapter_is_folded_into_what_4_bit_held(
    targets: Any, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    family, base = FAMILIES["qwen2_5_vl"], bases("qwen2_5_vl")
    models.random_adapter(
        base, family.name, tmp_path / "adapter", target_modules=family.lora_pattern(targets)
    )
    held_in = HeldIn(NF4, "bfloat16")
    report = fold(base, tmp_path / "adapter", family.name, tmp_path / "merged", held_in=held_in)
    reference = peft_merge_of_held_weights(base, tmp_path / "adapter")
    merged = load_model(tmp_path / "merged").state_dict()
    original = load_model(base).state_dict()
    in_4_bit = {
        parameter_name(family, key)
        for key in four_bit_keys(Checkpoint(base).spans.values(), family)
    }
    assert report.proof is not None
    assert report.dequantised == report.proof.expected == report.proof.changed == 14
    assert report.adapted == (14 if targets == "all" else 8)
    for name, tensor in merged.items():
        wanted = reference[name].bfloat16().float() if name in in_4_bit else original[name]
        assert torch.equal(tensor, wanted), name


def peft_merge_of_held_weights(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """PEFT's merge in float32 over the dequantised weights."""
    from peft import PeftModel

    held = held_in_4_bit(load_model(base, dtype="bfloat16", quantization=NF4))
    model = load_model(base)
    model.load_state_dict({**model.state_dict(), **{k: v.float() for k, v in held.items()}})
    return dict(PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict())


def test_update_that_vanishes_beside_the_noise_of_4_bit_is_still_found(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    models.random_adapter(bases("qwen3"), "qwen3", tmp_path / "adapter")
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    edit_tensor(tmp_path / "adapter/adapter_model.safetensors", key, torch.zeros_like)
    with pytest.raises(StageError, match="13 tensors changed for 14 adapted modules"):
        fold(
            bases("qwen3"),
            tmp_path / "adapter",
            "qwen3",
            tmp_path / "merged",
            held_in=HeldIn(NF4, "bfloat16"),
        )
