"""Gradients reach every trained weight and no other; each way to lose them is made on purpose."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from model_folders import RANDOM_MODELS, encoder_of, model_folder
from training_runs import base_of, samples_for, tiny_config
from vlmpipe.errors import StageError
from vlmpipe.models.families import family_of
from vlmpipe.models.loading import load_model
from vlmpipe.training.adapter import make_trainable
from vlmpipe.training.audits.gradient_flow import GradientFlow, audit_gradient_flow
from vlmpipe.training.batching.collator import pad_batch
from vlmpipe.training.run import load_trainable


def trainable(name: str, **settings: Any) -> Any:
    return load_trainable(tiny_config(**settings), base_of(name), "float32")[0]


def lora(name: str, **settings: Any) -> Any:
    """As `trainable`, by the model's own folder and without any proof."""
    folder = model_folder(name)
    config = tiny_config(**{"method": "lora", **settings})
    return make_trainable(load_model(folder), family_of(folder), config.train, 0)


def batches_of(name: str, count: int = 2) -> list[dict[str, Any]]:
    encoder = encoder_of(name)
    grid = encoder.contract.grid.within((112, 112))
    encoded = [encoder.encode_sample(s.messages, grid=grid) for s in samples_for(name, count)]
    return [pad_batch([each], encoder.tokenizer.pad_token_id) for each in encoded]


def probe(name: str, model: Any) -> GradientFlow:
    def step(batch: Mapping[str, Any]) -> None:
        model(**batch, use_cache=False).loss.backward()

    return audit_gradient_flow(model, batches_of(name), step)


def problems_of(name: str, model: Any) -> tuple[str, ...]:
    with pytest.raises(StageError, match="gradients do not flow") as caught:
        probe(name, model)
    return caught.value.problems


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_every_adapter_weight_gets_a_gradient_and_nothing_else_does(name: str) -> None:
    flow = probe(name, trainable(name, method="qlora"))
    layers = 4 if "qwen3_vl" in name else 2
    assert {group.kind: group.tensors for group in flow.groups} == {
        "lora_A": 7 * layers,
        "lora_B": 7 * layers,
    }
    assert all(group.smallest > 0 for group in flow.groups)
    assert flow.frozen_tensors > 0
    assert flow.as_json()["batches"] == 2


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({"lora": {"r": 4, "dora": True}}, {"lora_A", "lora_B", "lora_magnitude_vector"}),
        ({"lora": {"r": 4, "rslora": True, "dropout": 0.1}}, {"lora_A", "lora_B"}),
        ({"unfreeze": ["merger", "last_blocks:1"]}, {"lora_A", "lora_B", "weights"}),
        ({"gradient_checkpointing": True}, {"lora_A", "lora_B"}),
        ({"method": "full"}, {"weights"}),
    ],
)
def test_variants_opened_parts_and_full_training_are_looked_at_too(
    settings: dict[str, Any], kinds: set[str]
) -> None:
    model = lora("random-qwen2_5_vl", **settings)
    if settings.get("gradient_checkpointing"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    assert {group.kind for group in probe("random-qwen2_5_vl", model).groups} == kinds


def test_weights_gradients_modes_and_generators_are_afterwards_what_they_were() -> None:
    name = "random-qwen2_5_vl"
    model = trainable(name, method="qlora", lora={"r": 4, "dropout": 0.1})
    model.eval()
    kept = next(p for p in model.parameters() if p.requires_grad)
    kept.grad = torch.full_like(kept, 7.0)
    before = weights_of(model)
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    probe(name, model)
    after = weights_of(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(module.training for module in model.modules())
    assert bool((kept.grad == 7.0).all())
    assert sum(p.grad is not None for p in model.parameters()) == 1
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert np.random.get_state()[1].tobytes() == generators[2]


def test_a_fault_leaves_the_model_as_it_was_too() -> None:
    model = lora("random-qwen3").eval()
    before = weights_of(model)

    def fails(batch: Mapping[str, Any]) -> None:
        raise RuntimeError("a fault of the model")

    with pytest.raises(RuntimeError):
        audit_gradient_flow(model, batches_of("random-qwen3"), fails)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training


def test_without_numbers_in_b_the_gradients_of_a_would_be_zeros(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why the probe moves B: at LoRA's own start nothing could be told of A."""
    from vlmpipe.training.audits import gradient_flow

    monkeypatch.setattr(gradient_flow, "_zero_b", lambda model: [])
    problems = problems_of("random-qwen3", lora("random-qwen3"))
    assert all("lora_A" in p and p.endswith("zeros alone") for p in problems[:-1])
    assert problems[-1] == "and 6 more"


def test_a_detached_layer_is_refused_with_the_weights_that_it_cuts_off() -> None:
    model = lora("random-qwen2_5_vl")
    layers = model.get_base_model().model.language_model.layers
    layers[1].register_forward_pre_hook(lambda module, args: (args[0].detach(), *args[1:]))
    problems = problems_of("random-qwen2_5_vl", model)
    assert all(".layers.0." in p and p.endswith("gets no gradient") for p in problems[:-1])
    assert problems[-1] == "and 6 more"


def test_a_layer_whose_output_goes_nowhere_is_refused() -> None:
    model = lora("random-qwen3")
    mlp = model.get_base_model().model.layers[0].mlp
    mlp.register_forward_hook(lambda module, args, output: output * 0.0)
    problems = problems_of("random-qwen3", model)
    assert {p.partition(" ")[2] for p in problems} == {"gets a gradient of zeros alone"}
    assert all("layers.0.mlp" in problem for problem in problems)


def test_a_gradient_that_is_no_number_is_refused_by_name() -> None:
    model = lora("random-qwen3")
    name, weight = next(
        (n, p) for n, p in model.named_parameters() if "layers.1.mlp" in n and ".lora_A" in n
    )
    weight.register_hook(lambda gradient: gradient * float("nan"))
    assert problems_of("random-qwen3", model) == (
        f"{name} gets a gradient that is no finite number",
    )


def test_a_frozen_weight_with_a_gradient_is_refused_by_name() -> None:
    model = lora("random-qwen3")
    name, weight = next((n, p) for n, p in model.named_parameters() if not p.requires_grad)

    def step(batch: Mapping[str, Any]) -> None:
        model(**batch, use_cache=False).loss.backward()
        weight.grad = torch.zeros_like(weight)

    with pytest.raises(StageError) as caught:
        audit_gradient_flow(model, batches_of("random-qwen3"), step)
    assert caught.value.problems == (f"{name} is frozen and gets a gradient",)


def test_checkpointing_that_loses_gradients_is_refused() -> None:
    """Reentrant checkpointing over frozen embeddings: the known way to train nothing at all."""
    model = lora("random-qwen3")
    base = model.get_base_model()
    base.gradient_checkpointing_enable({"use_reentrant": True})
    base.disable_input_require_grads()
    problems = problems_of("random-qwen3", model)
    assert all(problem.endswith("gets no gradient") for problem in problems[:-1])
    assert problems[-1] == "and 20 more"
