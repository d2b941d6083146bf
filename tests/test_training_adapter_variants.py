"""rsLoRA, DoRA and LoRA+ as they are trained: scale, parameters, rates."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from transformers import Trainer

from model_folders import encoder_of
from training_runs import base_of, samples_for, tiny_config
from vlmpipe.config import Config
from vlmpipe.models.families import FAMILIES
from vlmpipe.models.loading import load_model
from vlmpipe.training.adapter import (
    adapted_modules,
    expected_adapter_parameters,
    load_adapter_weights,
    make_trainable,
    save_adapter,
)
from vlmpipe.training.batching.collator import pad_batch
from vlmpipe.training.optimizer import RATIO, set_learning_rate, training_optimizer

VISION, TEXT = "random-qwen2_5_vl", "random-qwen3"
PLUS = {"r": 4, "alpha": 8, "dropout": 0.0, "plus_ratio": 16}
OPTIMIZERS = ("adamw_torch", "adamw_8bit", "paged_adamw_8bit")


def config_of(method: str = "lora", **train: Any) -> Config:
    return tiny_config(method=method, **train)


def fresh(config: Config, name: str = TEXT, dtype: str = "float32", **how: Any) -> Any:
    base = base_of(name)
    model = load_model(base.folder, dtype=dtype, **how)
    return make_trainable(model, base.family, config.train, 0)


def lora(**settings: Any) -> dict[str, Any]:
    return {"r": 4, "alpha": 8, "dropout": 0.0, **settings}


def scales(model: Any) -> set[float]:
    return {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")}


def test_rank_stabilised_lora_scales_by_the_root_of_its_rank() -> None:
    assert scales(fresh(config_of(lora=lora()))) == {2.0}
    assert scales(fresh(config_of(lora=lora(rslora=True)))) == {4.0}


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("dora", [False, True])
def test_exactly_the_expected_parameters_are_trained_in_fp32(method: str, dora: bool) -> None:
    config, base = config_of(method, lora=lora(dora=dora), unfreeze=["merger"]), base_of(VISION)
    how = {"quantization": config.train.quantization} if method == "qlora" else {}
    layers = adapted_modules(load_model(base.folder), base.family, config.train)
    model = fresh(config, VISION, dtype="bfloat16", **how)
    expected = expected_adapter_parameters(model, base.family, config.train, layers, ("merger",))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == expected
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert dora is any("lora_magnitude_vector" in name for name in expected)


def test_an_unfrozen_part_comes_back_from_a_checkpoint_as_it_was_trained(tmp_path: Path) -> None:
    """Over a bf16 base: a copy still in 16 bit would round what was trained in fp32."""
    config, base = config_of(unfreeze=["merger"]), base_of(VISION)
    first = fresh(config, VISION, dtype="bfloat16")
    for name, parameter in first.named_parameters():
        if "modules_to_save" in name:
            parameter.data = parameter.data.float() + 1e-5
    save_adapter(first, base, tmp_path)
    again = fresh(config, VISION, dtype="bfloat16")
    load_adapter_weights(again, tmp_path)
    expected = {n: p for n, p in first.named_parameters() if "modules_to_save" in n}
    found = dict(again.named_parameters())
    assert expected
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def rates(optimizer: Any, model: Any) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_plain_lora_leaves_the_optimiser_to_the_trainer() -> None:
    config = config_of()
    model = fresh(config)
    assert training_optimizer(model, FAMILIES["qwen3"], config.train, 1e-3) is None
    assert (
        training_optimizer(model, FAMILIES["qwen3"], config_of(lora=lora(plus_ratio=1)).train, 1)
        is None
    )


def test_lora_plus_gives_the_rates_that_peft_gives() -> None:
    config = config_of(lora=PLUS, weight_decay=0.1)
    model = fresh(config)
    ours = training_optimizer(model, FAMILIES["qwen3"], config.train, 1e-3)
    theirs = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16, loraplus_weight_decay=0.1
    )
    assert rates(ours, model) == rates(theirs, model)
    assert {rate for rate, _ in rates(ours, model).values()} == {1e-3, 16e-3}


def test_vectors_keep_the_plain_rate_and_do_not_decay() -> None:
    """DoRA's magnitudes, and the norms and biases of an unfrozen part."""
    config = config_of(lora={**PLUS, "dora": True}, unfreeze=["merger"], weight_decay=0.1)
    model = fresh(config, VISION)
    optimizer = training_optimizer(model, FAMILIES["qwen2_5_vl"], config.train, 1e-3)
    parameters = dict(model.named_parameters())
    found = rates(optimizer, model)
    assert found.keys() == {name for name, p in parameters.items() if p.requires_grad}
    for name, rate in found.items():
        fast = 16e-3 if ".lora_B." in name else 1e-3
        assert rate == (fast, 0.1 if parameters[name].ndim > 1 else 0.0), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimiser_is_the_trainer_s_own_kind(name: str, tmp_path: Path) -> None:
    from transformers import TrainingArguments

    config = config_of(lora=PLUS, optimizer=name)
    found = training_optimizer(fresh(config), FAMILIES["qwen3"], config.train, 1e-3)
    arguments = TrainingArguments(output_dir=str(tmp_path), optim=name, learning_rate=1e-3)
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    expected = kind([torch.nn.Parameter(torch.zeros(1))], **settings)
    assert type(found) is type(expected)
    assert found.defaults == expected.defaults
    assert getattr(found, "is_paged", None) == getattr(expected, "is_paged", None)
    assert bits_of(found) == bits_of(expected) == (None if name == "adamw_torch" else 8)


def bits_of(optimizer: Any) -> int | None:
    """Bits of the moments of bitsandbytes' optimisers."""
    return getattr(getattr(optimizer, "args", None), "optim_bits", None)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_carried_over_optimiser_keeps_its_ratio_and_its_state_is_resumable(name: str) -> None:
    config = config_of(lora=PLUS, optimizer=name)
    model, family = fresh(config), FAMILIES["qwen3"]
    optimizer = training_optimizer(model, family, config.train, 1e-3)
    step(model, optimizer)
    set_learning_rate(optimizer, 5e-4)
    assert sorted(group["lr"] for group in optimizer.param_groups) == [5e-4, 8e-3]
    twin = copy.deepcopy(model)
    resumed = training_optimizer(twin, family, config.train, 1e-3)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert sorted(group[RATIO] for group in resumed.param_groups) == [1.0, 16.0]
    for _ in range(2):
        step(model, optimizer)
        step(twin, resumed)
    expected, found = model.state_dict(), twin.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_schedule_scales_every_group_alike() -> None:
    config = config_of(lora=PLUS)
    model = fresh(config)
    optimizer = training_optimizer(model, FAMILIES["qwen3"], config.train, 1e-3)
    step(model, optimizer)
    set_learning_rate(optimizer, 2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.5)
    assert schedule.get_last_lr() == [1e-3, 16e-3]


def test_groups_of_an_optimiser_that_knows_no_ratio_get_the_rate_itself() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["initial_lr"] == 0.25


def step(model: Any, optimizer: Any) -> None:
    sample = samples_for(TEXT, 1)[0]
    batch = pad_batch([encoder_of(TEXT).encode_sample(sample.messages)], 0)
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
