"""What rsLoRA, DoRA and progressive unfreezing trained is folded as PEFT folds it, and proven."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import export_models as models
from merge_folds import fold, lazy_bases
from model_folders import encoder_of
from training_runs import samples_for, tiny_config
from vlmpipe.errors import StageError
from vlmpipe.export.merging.dequantised import dequantised, four_bit_keys
from vlmpipe.export.merging.fold import Factors
from vlmpipe.export.merging.plan import HeldIn
from vlmpipe.export.merging.weights import Checkpoint
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.checkpoint_keys import parameter_name
from vlmpipe.models.families import FAMILIES
from vlmpipe.models.loading import load_model
from vlmpipe.training.adapter import make_trainable, open_parts, save_adapter
from vlmpipe.training.batching.collator import pad_batch
from vlmpipe.training.curriculum import unfreezing

VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "dora-rslora": {"dora": True, "rslora": True},
}
UNFREEZING = [
    {"name": "a", "max_size": [112, 112]},
    {"name": "b", "max_size": [112, 112], "unfreeze": ["merger"]},
]
DTYPE = "bfloat16"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return lazy_bases(tmp_path_factory.mktemp("bases"))


def train(
    base: Path, family: str, target: Path, *, method: str, phases: int = 1, **settings: Any
) -> Any:
    """A few steps of a real training; its adapter saved into `target`."""
    settings = {"curriculum": [], "lora": {"r": 4, "alpha": 8, "dropout": 0.0}, **settings}
    config = tiny_config(method=method, **settings).train
    how = {"quantization": config.quantization} if method == "qlora" else {}
    known = FAMILIES[family]
    model = make_trainable(load_model(base, dtype=DTYPE, **how), known, config, 0)
    batch = batch_of(family)
    for parts in unfreezing(config, has_vision=known.has_vision)[:phases]:
        open_parts(model, known, parts)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    save_adapter(model, BaseModelFolder(base, known, "base", "r", "digest", 0), target)
    return model


def batch_of(family: str) -> dict[str, torch.Tensor]:
    name = f"random-{family}"
    sample = samples_for(name, 1)[0]
    return pad_batch([encoder_of(name).encode_sample(sample.messages)], 0)


def peft_merge(base: Path, adapter: Path, held: dict[str, torch.Tensor]) -> dict[str, Any]:
    """PEFT's own merge in float32, rounded to bfloat16 once, into `held` where it has a weight."""
    model = load_model(base)
    parameters = dict(model.named_parameters())
    for name, value in held.items():
        parameters[name].data.copy_(value)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return {name: value.detach().to(torch.bfloat16) for name, value in merged.named_parameters()}


def held_in_4_bit(base: Path, family: str, held_in: HeldIn) -> dict[str, torch.Tensor]:
    checkpoint, known = Checkpoint(base), FAMILIES[family]
    return {
        parameter_name(known, key): dequantised(
            checkpoint.tensor(key), held_in.quantization, held_in.dtype
        )
        for key in four_bit_keys(checkpoint.spans.values(), known)
    }


def refuse_other_values(merged: Path, reference: dict[str, Any]) -> None:
    for name, tensor in load_model(merged, dtype=DTYPE).named_parameters():
        # DoRA's lengths are summed in another order: the last bit of some values may differ.
        assert torch.allclose(tensor, reference[name], rtol=2**-7, atol=0), name
        assert (tensor == reference[name]).float().mean() > 0.999, name


@pytest.mark.parametrize("fold_base", ["w16", "dequant"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_qlora_trained_is_folded_as_peft_folds_it(
    variant: str, fold_base: str, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    family, base = "qwen2_5_vl", bases("qwen2_5_vl")
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, **VARIANTS[variant]}
    config = tiny_config(method="qlora").train
    train(base, family, tmp_path / "adapter", method="qlora", lora=lora)
    held_in = HeldIn(config.quantization, DTYPE) if fold_base == "dequant" else None
    report = fold(base, tmp_path / "adapter", family, tmp_path / "merged", held_in=held_in)
    held = held_in_4_bit(base, family, held_in) if held_in else {}
    refuse_other_values(tmp_path / "merged", peft_merge(base, tmp_path / "adapter", held))
    assert report.proof is not None
    assert report.changed == report.adapted == 7 * 2
    assert report.proof.worst_rounding <= 1
    assert report.proof.adapter_keys == report.adapted * (3 if "dora" in variant else 2)


@pytest.mark.parametrize("family", models.FAMILY_NAMES)
def test_a_merged_dora_answers_as_its_adapter_does(
    family: str, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    base = bases(family)
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, "dora": True}
    train(base, family, tmp_path / "adapter", method="lora", lora=lora)
    fold(base, tmp_path / "adapter", family, tmp_path / "merged")
    adapted = PeftModel.from_pretrained(load_model(base), str(tmp_path / "adapter")).eval()
    batch = batch_of(family)
    with torch.inference_mode():
        expected, before = adapted(**batch).logits, load_model(base)(**batch).logits
        found = load_model(tmp_path / "merged")(**batch).logits
    rounding, change = (found - expected).abs().max(), (expected - before).abs().max()
    assert rounding < 0.05 * change


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("phases", [1, 2])
def test_parts_that_opened_are_replaced_and_parts_that_did_not_stay_the_base_s(
    phases: int, family: str, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """Stopped after the first phase, the adapter holds the merger as the base does."""
    base = bases(family)
    train(base, family, tmp_path / "adapter", method="lora", curriculum=UNFREEZING, phases=phases)
    report = fold(base, tmp_path / "adapter", family, tmp_path / "merged")
    refuse_other_values(tmp_path / "merged", peft_merge(base, tmp_path / "adapter", {}))
    mergers = [name for name in Checkpoint(base).keys if "merger" in name]
    assert report.replaced == len(mergers)
    assert (report.replaced_changed > 0) is (phases == 2)


def forgets_magnitude(self: Factors, rows: Any, begin: int, end: int, out: Any) -> None:
    torch.mm(self.up[begin:end], self.down, out=out)
    out.mul_(self.scale).add_(rows)


def scales_by_rank(self: Factors, rows: Any, begin: int, end: int, out: Any) -> None:
    """alpha / r where rsLoRA says alpha / sqrt(r); r is 4."""
    torch.mm(self.up[begin:end], self.down, out=out)
    out.mul_(self.scale / 2).add_(rows)


@pytest.mark.parametrize(
    ("variant", "wrong"), [("dora", forgets_magnitude), ("rslora", scales_by_rank)]
)
def test_the_proof_finds_a_fold_that_forgets_what_the_variant_is(
    variant: str,
    wrong: Any,
    bases: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, **VARIANTS[variant]}
    train(bases("qwen3"), "qwen3", tmp_path / "adapter", method="lora", lora=lora)
    monkeypatch.setattr(Factors, "apply", wrong)
    with pytest.raises(StageError, match="is not the base's tensor with the adapter's update"):
        fold(bases("qwen3"), tmp_path / "adapter", "qwen3", tmp_path / "merged")
