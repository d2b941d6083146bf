"""The supervised head on real models: plain cross entropy's loss and gradients, in any wrapping."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from model_folders import RANDOM_MODELS, encoder_of, model_folder, table_sample
from vlmpipe.config import parse_config
from vlmpipe.encoding.conversation import Message
from vlmpipe.errors import StageError
from vlmpipe.models.families import family_of
from vlmpipe.models.loading import load_model
from vlmpipe.training.adapter import make_trainable
from vlmpipe.training.batching.collator import pad_batch
from vlmpipe.training.loss import chunked_ce, supervised_head
from vlmpipe.training.loss.chunked_ce import chunk_rows, chunked_cross_entropy
from vlmpipe.training.loss.head_memory import measure_head_memory
from vlmpipe.training.loss.head_proof import prove_head
from vlmpipe.training.loss.supervised_head import (
    install_supervised_head,
    keeping_forward,
    losses_by_sample,
)

VISION = "random-qwen2_5_vl"


def batch_of(name: str, seeds: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    encoder = encoder_of(name)
    vision = family_of(model_folder(name)).has_vision
    encoded = [encoder.encode_sample(conversation(seed, vision)) for seed in seeds]
    return pad_batch(encoded, encoder.tokenizer.pad_token_id)


def conversation(seed: int, vision: bool) -> tuple[Message, ...]:
    """Answers of different lengths: the higher the seed, the longer."""
    asked, answer = table_sample(seed, vision=vision).messages
    return asked, Message("assistant", answer.parts * (1 + seed))


def open_model(name: str, *, trained: bool = True) -> Any:
    torch.manual_seed(0)
    return load_model(model_folder(name)).requires_grad_(trained)


def plain_loss(model: Any, batch: dict[str, Any]) -> Tensor:
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits = model(**inputs).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum"
    )


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    found = ((name, parameter.grad) for name, parameter in model.named_parameters())
    return {name: gradient.clone() for name, gradient in found if gradient is not None}


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest relative distance of a parameter's gradient."""
    assert found.keys() == expected.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values())
    return max(
        float((found[name] - gradient).norm() / max(float(gradient.norm()), 1e-3 * largest))
        for name, gradient in expected.items()
    )


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows in a chunk at most: every batch here takes several."""

    def seven(rows: int, vocabulary: int, device_type: str) -> int:
        return min(rows, 7)

    monkeypatch.setattr(chunked_ce, "chunk_rows", seven)


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_loss_and_every_gradient_are_those_of_plain_cross_entropy(
    name: str, small_chunks: None
) -> None:
    """All weights open: head, tied or not, backbone and tower."""
    model, batch = open_model(name), batch_of(name)
    expected = plain_loss(model, batch)
    expected_gradients = gradients(model, expected)
    install_supervised_head(model)
    output = model(**batch, supervised_head=True)
    assert float(output.loss_sum.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert furthest(gradients(model, output.loss_sum), expected_gradients) < 2e-6
    assert output.tokens == int((batch["labels"][:, 1:] != -100).sum())


@pytest.mark.parametrize("rows", [1, 6, 7, 8, 15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_chunks_of_any_number_add_up(rows: int, dtype: torch.dtype, small_chunks: None) -> None:
    """Just below, at and above a chunk's end; each dtype within its rounding of fp32."""
    torch.manual_seed(rows)
    hidden = torch.randn(rows, 64).to(dtype).requires_grad_()
    weight = (torch.randn(1000, 64) * 0.3).to(dtype).requires_grad_()
    targets = torch.randint(1000, (rows,))
    total, losses, _ = chunked_cross_entropy(hidden, weight, targets)
    (total / 7).backward()
    exact, exact_weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    expected = torch.nn.functional.cross_entropy(exact @ exact_weight.T, targets, reduction="sum")
    (expected / 7).backward()
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=tolerance)
    assert float(losses.sum()) == pytest.approx(float(total.detach()), rel=1e-6)
    for found, true in ((hidden, exact), (weight, exact_weight)):
        assert found.grad is not None
        assert true.grad is not None
        assert float((found.grad - true.grad).norm() / true.grad.norm()) < tolerance


def test_tiny_probabilities_keep_their_gradient_in_fp16() -> None:
    """What a sure model leaves to 65,535 other tokens: 1.5e-7 each, and fp16 counts in 6e-8."""
    torch.manual_seed(0)
    hidden = torch.tensor([[15.7] + [0.0] * 7], dtype=torch.float16, requires_grad=True)
    weight = torch.rand(1 << 16, 8).half()
    weight[:, 0] = 0
    weight[0] = torch.tensor([1.0] + [0.0] * 7)
    targets = torch.tensor([0])
    total, _, _ = chunked_cross_entropy(hidden, weight, targets)
    total.backward()
    exact = hidden.detach().double().requires_grad_()
    torch.nn.functional.cross_entropy(exact @ weight.double().T, targets).backward()
    assert hidden.grad is not None
    assert exact.grad is not None
    assert float((hidden.grad - exact.grad).norm() / exact.grad.norm()) < 2e-2


def test_a_confident_row_keeps_its_gradient_in_bf16() -> None:
    """p - 1 in bf16 would be 0 or twice what it is where p is 0.999."""
    hidden = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([[7.0], [0.0]], dtype=torch.bfloat16)
    total, _, _ = chunked_cross_entropy(hidden, weight, torch.tensor([0]))
    total.backward()
    expected = 7.0 * (1 / (1 + torch.exp(torch.tensor(-7.0))) - 1)
    assert hidden.grad is not None
    assert float(hidden.grad) == pytest.approx(float(expected), rel=1e-2)


def test_chunks_are_even_and_within_the_budget() -> None:
    """A last chunk of one row would cost as much as a whole one."""
    most = chunked_ce.CHUNK_BYTES["cpu"] // (4 * 151_936)
    assert chunk_rows(most + 1, 151_936, "cpu") == -(-(most + 1) // 2)
    assert chunk_rows(5, 151_936, "cpu") == 5
    assert chunk_rows(5, 1 << 40, "cpu") == 1


@pytest.mark.parametrize("labels", ["none", "all", "first"])
def test_any_number_of_supervised_tokens_works(labels: str, small_chunks: None) -> None:
    """None at all: still in the graph, and the gradient is exactly zero, not absent."""
    model, batch = open_model("random-qwen3"), batch_of("random-qwen3")
    batch["labels"] = batch["input_ids"].clone()
    if labels != "all":
        batch["labels"][:, slice(0 if labels == "none" else 1, None)] = -100
    install_supervised_head(model)
    output = model(**batch, supervised_head=True)
    found = gradients(model, output.loss_sum)
    assert found.keys() == dict(model.named_parameters()).keys()
    if labels == "all":
        assert output.tokens == batch["labels"][:, 1:].numel()
        assert furthest(found, gradients(model, plain_loss(model, batch))) < 2e-6
        return
    # A row's first token is foretold by nothing, so its label counts for nothing.
    assert (output.tokens, float(output.loss_sum.detach()), int(output.correct)) == (0, 0.0, 0)
    assert not any(gradient.any() for gradient in found.values())


def test_accumulated_batches_equal_one_when_normalised_by_all_their_tokens() -> None:
    model = open_model(VISION)
    install_supervised_head(model)
    whole = model(**batch_of(VISION), supervised_head=True)
    expected = gradients(model, whole.loss_sum / whole.tokens)
    model.zero_grad()
    parts = [model(**batch_of(VISION, (seed,)), supervised_head=True) for seed in (0, 1)]
    assert sum(part.tokens for part in parts) == whole.tokens
    assert parts[0].tokens != parts[1].tokens  # a mean of means would be another loss
    for part in parts:
        (part.loss_sum / whole.tokens).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert furthest(found, expected) < 1e-5


def test_under_an_adapter_with_checkpointing_the_gradients_are_plain_ones() -> None:
    """As training has it: PEFT outside, layers recomputed in the backward pass."""
    config = parse_config({"train": {"method": "lora", "lora": {"r": 4, "dropout": 0.0}}}).train
    model = load_model(model_folder(VISION))
    tuned = make_trainable(model, family_of(model_folder(VISION)), config, seed=0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:  # zero at the start, and every lora_A's gradient with it
            torch.nn.init.normal_(parameter, std=0.02)
    batch = batch_of(VISION)
    expected = gradients(tuned, plain_loss(tuned, batch))
    install_supervised_head(tuned.get_base_model())
    tuned.train()
    tuned.gradient_checkpointing_enable({"use_reentrant": False})
    tuned.enable_input_require_grads()
    found = gradients(tuned, tuned(**batch, supervised_head=True).loss_sum)
    assert all("lora_" in name for name in found)
    assert furthest(found, expected) < 1e-5


def test_bf16_autocast_is_as_near_to_fp32_as_the_plain_head() -> None:
    model = open_model(VISION, trained=False)
    install_supervised_head(model)
    proof = prove_head(model, batch_of(VISION), "bfloat16")
    assert proof.holds
    assert 0 < proof.gradient_error < 2e-2


def test_generate_and_the_plain_forward_are_as_before() -> None:
    model, batch = open_model(VISION, trained=False), batch_of(VISION, (0,))
    prompt = {key: value for key, value in batch.items() if key != "labels"}
    expected = model(**batch)
    written = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    signature = inspect.signature(model.forward)
    install_supervised_head(model)
    found = model(**batch)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(model.generate(**prompt, max_new_tokens=3, do_sample=False), written)
    assert inspect.signature(model.forward) == signature


def test_it_is_installed_once_and_a_copy_of_the_model_is_its_own() -> None:
    model = open_model("random-qwen3", trained=False)
    install_supervised_head(model)
    forward = model.forward
    install_supervised_head(model)
    assert model.forward == forward
    twin, batch = copy.deepcopy(model), batch_of("random-qwen3")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    before = float(twin(**batch, supervised_head=True).loss_sum)
    assert before != float(model(**batch, supervised_head=True).loss_sum)
    assert twin(**batch).logits.any()


def test_trl_s_own_head_lives_beside_it_and_does_not_pile_up() -> None:
    """As each phase makes a trainer; TRL lays its head over the forward every time."""
    from trl.trainer.utils import add_fused_lm_head

    model, batch = open_model("random-qwen3", trained=False), batch_of("random-qwen3")
    install_supervised_head(model)
    forward = model.forward
    ours = float(model(**batch, supervised_head=True).loss_sum)
    add_fused_lm_head(model)
    both = model(**batch, fused_lm_head=True)
    assert float(model(**batch, supervised_head=True).loss_sum) == ours
    assert float(-both.log_probs.sum()) == pytest.approx(ours, rel=1e-5)
    model.forward = forward
    for _phase in range(3):
        with keeping_forward(model):
            add_fused_lm_head(model)
        assert model.forward == forward


def test_losses_of_single_samples_are_those_of_batches_of_one() -> None:
    model, batch = open_model(VISION, trained=False), batch_of(VISION)
    install_supervised_head(model)
    output = model(**batch, supervised_head=True)
    length = batch["labels"].shape[1]
    found = losses_by_sample(
        output.token_losses, output.positions, torch.tensor([length, 2 * length])
    )
    alone = [float(plain_loss(model, batch_of(VISION, (seed,)))) for seed in (0, 1)]
    assert found.tolist() == pytest.approx(alone, rel=1e-5)


def test_correct_counts_the_targets_that_no_other_token_outdoes() -> None:
    model, batch = open_model("random-qwen3", trained=False), batch_of("random-qwen3")
    best = model(**{k: v for k, v in batch.items() if k != "labels"}).logits.argmax(-1)
    batch["labels"][:, 1::2] = best[:, :-1:2][:, : batch["labels"][:, 1::2].shape[1]]
    install_supervised_head(model)
    output = model(**batch, supervised_head=True)
    hits = (best[:, :-1] == batch["labels"][:, 1:]).sum()
    assert int(output.correct) == int(hits) > 0


def test_no_gradient_is_made_where_none_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation pays one matrix product, not two."""

    def fail(*_: Any) -> None:
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(chunked_ce._Chunks, "_logit_grad", fail)
    model = open_model("random-qwen3")
    install_supervised_head(model)
    with torch.no_grad():
        assert model(**batch_of("random-qwen3"), supervised_head=True).tokens > 0
    with pytest.raises(AssertionError, match="a gradient"):
        model(**batch_of("random-qwen3"), supervised_head=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mask_shifted_by_one_fails_the_proof(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each target is held against the state of its own token, not of the one before."""
    right = supervised_head.loss_at

    def shifted(model: Any, hidden: Tensor, labels: Tensor, positions: Tensor) -> Any:
        return right(model, hidden.roll(-1, dims=1), labels, positions)

    model, batch = open_model(VISION, trained=False), batch_of(VISION)
    install_supervised_head(model)
    assert prove_head(model, batch, dtype).holds
    monkeypatch.setattr(supervised_head, "loss_at", shifted)
    with pytest.raises(StageError, match="not plain cross entropy"):
        prove_head(model, batch, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gradient_that_is_a_tenth_too_long_fails_the_proof(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is right; only the backward pass is off."""
    right = chunked_ce._Chunks._logit_grad

    def longer(self: Any, *given: Any) -> Tensor:
        return right(self, *given).mul_(1.1)

    monkeypatch.setattr(chunked_ce._Chunks, "_logit_grad", longer)
    model = open_model(VISION, trained=False)
    install_supervised_head(model)
    with pytest.raises(StageError, match=r"its gradient 0\.1"):
        prove_head(model, batch_of(VISION), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_head_s_memory_is_measured_and_lower(dtype: str) -> None:
    """A bound far from what is measured: a twentieth of the tokens is supervised."""
    model = wide_model()
    memory = measure_head_memory(model, tokens=1000, supervised=50, dtype=dtype)
    assert not memory.is_scaled
    assert memory.plain_bytes > 1000 * model.config.vocab_size * 8
    assert memory.supervised_bytes < memory.plain_bytes / 4
    assert "measured" in memory.told()


def test_a_plain_head_that_would_not_fit_is_measured_on_fewer_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = wide_model()
    whole = measure_head_memory(model, tokens=1000, supervised=50, dtype="float32")
    # 38 MB of logits: up to 32 MiB glibc may keep what was freed, and a measurement counts it.
    free = 2 * 20 * model.config.vocab_size * 600
    monkeypatch.setattr("vlmpipe.training.loss.head_memory._free_bytes", lambda device: free)
    scaled = measure_head_memory(model, tokens=1000, supervised=50, dtype="float32")
    assert (scaled.measured_tokens, scaled.is_scaled) == (600, True)
    assert scaled.plain_bytes == pytest.approx(whole.plain_bytes, rel=0.15)
    assert "scaled from 600 tokens" in scaled.told()


def wide_model() -> Any:
    """One narrow layer under a vocabulary of 16,000: nothing but its head weighs anything."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=16_000,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    return Qwen3ForCausalLM(config).eval()
