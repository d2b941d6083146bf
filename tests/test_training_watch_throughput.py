"""FLOPs against torch's own counter, counts of a step, and the speeds in its row."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model_folders import encoder_of
from toy_training import toy_phase
from training_runs import base_of, samples_for, tiny_config
from vlmpipe.config import Config
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training.batching.collator import pad_batch
from vlmpipe.training.run import load_trainable
from vlmpipe.training.watch.callbacks import PhaseMetrics
from vlmpipe.training.watch.flops import ModelFlops, Work, flops_of, window_side
from vlmpipe.training.watch.peak_flops import peak_flops
from vlmpipe.training.watch.rows import read_rows
from vlmpipe.training.watch.throughput import CountedSteps, work_of


def eager_config(method: str) -> Config:
    """torch counts the products of eager attention; for SDPA on a CPU it has no formula."""
    config = tiny_config(method=method, lora={"r": 16, "alpha": 8, "dropout": 0.0})
    model = config.model.model_copy(update={"attn_implementation": "eager"})
    return config.model_copy(update={"model": model})


def batch_of(name: str, count: int) -> dict[str, Any]:
    encoder = encoder_of(name)
    encoded = [encoder.encode_sample(each.messages) for each in samples_for(name, count)]
    return pad_batch(encoded, 0)


def counted(model: Any, batch: Mapping[str, Any]) -> tuple[float, float]:
    """FLOPs of forward and backward: of linear layers, of attention's products."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with FlopCounterMode(display=False) as counter:
        model(**inputs, use_cache=False).logits.sum().backward()
    by_operation = counter.get_flop_counts()["Global"]
    attention = sum(count for name, count in by_operation.items() if "bmm" in str(name))
    return counter.get_total_flops() - attention, attention


def attention_of(flops: ModelFlops, work: Work) -> tuple[float, float]:
    """The language model's, and the tower's."""
    tower = flops.patch_pair.both * work.patch_pairs + flops.window_pair.both * work.window_pairs
    return flops.token_pair.both * work.token_pairs, tower


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("name", ["random-qwen2_vl", "random-qwen2_5_vl", "random-qwen3_vl"])
def test_flops_are_those_that_torch_counts(name: str, method: str) -> None:
    """Eager attention computes the whole square, of which the causal half is needed."""
    base = base_of(name)
    model, _ = load_trainable(eager_config(method), base, "float32")
    flops = flops_of(model, base.family, gradient_checkpointing=False)
    batch = batch_of(name, 1)
    work = Work(*work_of(batch, window_side(model)).tolist())
    everywhere = Work(**{**work.__dict__, "supervised": work.tokens})  # as `logits` is computed
    # Without this the first layer would need no gradient of its input.
    model.get_input_embeddings().register_forward_hook(lambda _, __, out: out.requires_grad_())
    linear, attention = counted(model, batch)
    language, tower = attention_of(flops, work)
    assert flops.model(everywhere) - language - tower == pytest.approx(linear, rel=0.01)
    assert 2 * language + tower == pytest.approx(attention, rel=0.01)


def test_lora_takes_4_flops_a_base_weight_and_6_an_adapter_weight() -> None:
    base = base_of("random-qwen3")
    for method, per_weight in (("lora", 4), ("full", 6)):
        model, _ = load_trainable(eager_config(method), base, "float32")
        flops = flops_of(model, base.family, gradient_checkpointing=True)
        layers = {
            name: parameter.numel()
            for name, parameter in model.named_parameters()
            if "layers" in name and parameter.dim() == 2
        }
        adapter = sum(count for name, count in layers.items() if "lora_" in name)
        rest = sum(layers.values()) - adapter
        assert flops.token.both == per_weight * rest + 6 * adapter
        work = Work(samples=1, tokens=10, token_pairs=100)
        again = flops.hardware(work) - flops.model(work)
        assert again == flops.token.forward * 10 + flops.token_pair.forward * 100


def test_quantised_layers_count_their_weights_not_their_bytes() -> None:
    base = base_of("random-qwen2_5_vl")
    quantised, plain = (
        flops_of(
            load_trainable(tiny_config(method=method), base, "float32")[0],
            base.family,
            gradient_checkpointing=False,
        )
        for method in ("qlora", "lora")
    )
    assert quantised == plain


def test_a_trained_merger_costs_its_gradients() -> None:
    base = base_of("random-qwen2_5_vl")
    frozen, opened = (
        flops_of(
            load_trainable(tiny_config(method="lora", unfreeze=parts), base, "float32")[0],
            base.family,
            gradient_checkpointing=False,
        )
        for parts in ([], ["merger"])
    )
    assert frozen.patch.backward == 0
    merger = (256 * 256 + 256 * 256) / 4  # two layers, for one of four patches
    # Weight gradients of both, and the second one's input.
    assert opened.patch.backward == 2 * merger + 2 * merger / 2
    assert opened.patch.forward == frozen.patch.forward


def packed(lengths: list[int], supervised: int) -> dict[str, Any]:
    total = sum(lengths)
    places = torch.cat([torch.arange(length) for length in lengths])
    labels = torch.full((1, total), -100)
    labels[0, -supervised:] = 1
    return {
        "input_ids": torch.ones(1, total, dtype=torch.long),
        "labels": labels,
        "position_ids": places.expand(4, 1, total),
    }


def test_packed_and_padded_batches_are_the_same_work() -> None:
    padded = batch_of("random-qwen2_5_vl", 3)
    padded["attention_mask"][0, -5:] = 0
    padded["labels"][0, -5:] = -100
    lengths = padded["attention_mask"].sum(dim=1).tolist()
    found = Work(*work_of(padded, 8).tolist())
    other = Work(*work_of(packed(lengths, 7), None).tolist())
    assert (found.samples, found.tokens) == (3, sum(lengths)) == (other.samples, other.tokens)
    assert found.token_pairs == other.token_pairs == sum(length**2 for length in lengths)
    assert (found.supervised, other.supervised) == (int((padded["labels"] != -100).sum()), 7)
    assert found.patches == len(padded["pixel_values"])
    assert other.patches == 0


def test_features_from_a_cache_and_muted_rows_are_no_work() -> None:
    batch = batch_of("random-qwen2_5_vl", 2)
    live = Work(*work_of(batch).tolist())
    cached = {key: value for key, value in batch.items() if key != "pixel_values"}
    assert Work(*work_of(cached).tolist()).patches == 0
    batch["labels"][1] = -100
    half = Work(*work_of(batch).tolist())
    assert (half.samples, half.tokens, half.supervised) == (1, live.tokens // 2, 18)
    batch["labels"][0] = -100
    assert Work(*work_of(batch).tolist()) == Work()


@pytest.mark.parametrize(("grid", "pairs"), [((1, 16, 8), 2 * 64**2), ((1, 10, 8), 64**2 + 16**2)])
def test_windows_are_cut_as_the_tower_cuts_them(grid: tuple[int, ...], pairs: int) -> None:
    """8 patches a side: 112 pixels of 14."""
    batch = packed([4], 2) | {
        "pixel_values": torch.zeros(1),
        "image_grid_thw": torch.tensor([list(grid)]),
    }
    assert Work(*work_of(batch, 8).tolist()).window_pairs == pairs


class Plain:
    """A trainer that only logs."""

    def __init__(self) -> None:
        self.accelerator = SimpleNamespace(
            device=torch.device("cpu"), reduce=lambda counts, how: counts * 2
        )
        self.logged: list[dict[str, float]] = []

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> float:
        return 1.0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.logged.append(logs)


class Counted(CountedSteps, Plain):
    """Two processes of the same work."""


def test_a_step_s_counts_go_into_its_row_as_speeds(tmp_path: Path) -> None:
    trainer = Counted()
    base = base_of("random-qwen3")
    model, _ = load_trainable(tiny_config(method="lora"), base, "float32")
    trainer.flops = flops_of(model, base.family, gradient_checkpointing=True)
    for _ in range(2):
        trainer.training_step(None, packed([10, 20], 5))
    trainer.log({"loss": 1.5, "grad_norm": float("nan")})
    [logs] = trainer.logged
    assert (logs["samples"], logs["tokens"], logs["supervised_tokens"]) == (8, 120, 20)
    path = tmp_path / "metrics.jsonl"
    metrics = PhaseMetrics(toy_phase(5, first_step=10), 15, path, SilentReporter(), 1e12)
    metrics.on_train_begin(None, None, None)
    time.sleep(0.05)
    metrics.on_step_end(None, None, None)
    metrics.on_log(None, SimpleNamespace(global_step=2), None, logs)
    [row] = read_rows(path)
    assert row["step"] == 12
    assert "grad_norm" not in row
    for name, count in (("samples", 8), ("tokens", 120), ("supervised_tokens", 20)):
        assert row[f"{name}_per_second"] == pytest.approx(count / row["seconds"], rel=0.01)
    assert row["hfu"] > row["mfu"] > 0


def test_the_peak_is_measured_and_draws_no_random_number() -> None:
    before = torch.random.get_rng_state()
    assert peak_flops("cpu", "float32") > 1e8
    assert torch.equal(torch.random.get_rng_state(), before)
    assert peak_flops("cpu", "float32") == peak_flops("cpu", "float32")
