"""Packed rows: the losses and gradients of samples alone; broken ones are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from model_folders import (
    RANDOM_MODELS,
    VISION_MODELS,
    encoder_of,
    model_folder,
    picture,
    table_sample,
)
from training_runs import tiny_config
from vlmpipe.config import parse_config
from vlmpipe.config.train import QuantizationSection
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.encoding.encoder import IGNORED, Encoded
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import StageError
from vlmpipe.models.families import family_of
from vlmpipe.models.loading import load_model
from vlmpipe.training.adapter import make_trainable
from vlmpipe.training.batching.collator import PhaseCollator
from vlmpipe.training.batching.packed_attention import (
    PACKED_SDPA,
    install_packed_attention,
    packed_mask,
    packed_sdpa,
    packing_for,
)
from vlmpipe.training.batching.packing_proof import prove_packing
from vlmpipe.training.batching.positions import positions_for, text_positions
from vlmpipe.training.batching.rows import Row
from vlmpipe.training.vision_cache.features import (
    ImageFeatures,
    as_encoder_outputs,
    compute_features,
)

ROWS = [Row(number) for number in range(4)]


@cache
def fresh_model(name: str) -> Any:
    """With an adapter whose B is not zero, so that its A gets gradients."""
    folder = model_folder(name)
    config = tiny_config(method="lora").train
    model = make_trainable(load_model(folder), family_of(folder), config, seed=0)
    generator = torch.Generator().manual_seed(1)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    install_packed_attention(model)
    return model


@pytest.fixture(params=RANDOM_MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def samples_of(name: str) -> list[Sample]:
    """One with an image, one without, one with two, one short."""
    if name not in VISION_MODELS:
        return [table_sample(seed, vision=False) for seed in range(4)]
    two = Sample(
        "two",
        (
            Message("user", (picture(60, 160), "and", picture(201, 90, 3), "What is it?")),
            Message("assistant", ("A picture, and another one.",)),
        ),
        "qa",
    )
    short = Sample("short", (Message("user", ("Hi",)), Message("assistant", ("A",))), "qa")
    return [table_sample(0), table_sample(1, vision=False), two, short]


def collator_of(name: str, **settings: Any) -> PhaseCollator:
    encoder = encoder_of(name)
    settings.setdefault("positions", positions_for(fresh_model(name)))
    return PhaseCollator(
        samples_of(name), encoder, "all_text", encoder.contract.grid.within((112, 196)), **settings
    )


def loss_of(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Summed over supervised tokens."""
    labels = batch["labels"][:, 1:].flatten()
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    # With a cache of its own transformers does not look for packed positions.
    logits = model(**inputs, use_cache=False).logits
    return cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels, ignore_index=IGNORED, reduction="sum"
    )


def gradients_of(model: Any, batches: list[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    model.zero_grad()
    losses = [loss_of(model, batch) for batch in batches]
    for loss in losses:
        loss.backward()
    named = [(key, each) for key, each in model.named_parameters() if each.requires_grad]
    return sum(float(loss.detach()) for loss in losses), {
        key: each.grad.clone() for key, each in named
    }


def prove(name: str, packed: dict[str, Any], model: Any = None) -> Any:
    collator = collator_of(name)
    return prove_packing(
        model or fresh_model(name),
        packed=packed,
        padded=collator.padded(ROWS),
        singles=[collator.padded([row]) for row in ROWS],
    )


def test_a_packed_row_is_as_long_as_its_samples_and_has_no_mask(name: str) -> None:
    collator = collator_of(name)
    packed, singles = collator(ROWS), [collator.padded([row]) for row in ROWS]
    lengths = [single["input_ids"].shape[1] for single in singles]
    assert "attention_mask" not in packed
    assert packed["input_ids"].shape == packed["labels"].shape == (1, sum(lengths))
    assert packed["cu_seq_lens_q"].diff().tolist() == lengths
    assert packed["max_length_q"] == packed["max_length_k"] == max(lengths)
    assert torch.equal(packed["labels"], torch.cat([each["labels"] for each in singles], dim=1))


def test_positions_begin_anew_and_are_the_models_own(name: str) -> None:
    """Those that the model gives each sample when it is called without any."""
    model, collator = fresh_model(name), collator_of(name)
    rows = 4 if name in VISION_MODELS else 1
    expected = []
    for row in ROWS:
        batch = collator.padded([row])
        length = batch["input_ids"].shape[1]
        text = torch.arange(length).expand(rows, 1, length).clone()
        if "image_grid_thw" in batch:
            text[1:], _ = model.get_base_model().model.get_rope_index(
                batch["input_ids"],
                mm_token_type_ids=batch["mm_token_type_ids"],
                image_grid_thw=batch["image_grid_thw"],
            )
        expected.append(text)
    found = collator(ROWS)["position_ids"]
    assert torch.equal(found.view(rows, 1, -1), torch.cat(expected, dim=-1))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_losses_and_gradients_are_those_of_samples_alone(
    name: str, checkpointing: bool
) -> None:
    model, collator = fresh_model(name), collator_of(name)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        packed_loss, packed = gradients_of(model, [collator(ROWS)])
        loss, alone = gradients_of(model, [collator.padded([row]) for row in ROWS])
    finally:
        model.gradient_checkpointing_disable()
        model.eval()
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    for key, gradient in alone.items():
        assert gradient.abs().max() > 0, key
        scale = float(gradient.abs().max())
        assert torch.allclose(packed[key], gradient, rtol=1e-4, atol=1e-5 * scale), key


def test_padded_rows_are_computed_as_they_were(name: str) -> None:
    plain = load_model(model_folder(name))
    switched = load_model(model_folder(name))
    install_packed_attention(switched)
    batch = collator_of(name).padded(ROWS)
    with torch.no_grad():
        assert torch.equal(loss_of(plain, dict(batch)), loss_of(switched, dict(batch)))


def test_a_packed_model_still_generates(name: str) -> None:
    encoder = encoder_of(name)
    plain, switched = load_model(model_folder(name)), load_model(model_folder(name))
    install_packed_attention(switched)
    prompt = torch.tensor([encoder.encode_prompt([Message("user", ("Hello",))]).input_ids])
    answers = [
        model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8)
        for model in (plain, switched)
    ]
    assert torch.equal(*answers)


def test_only_the_language_model_is_switched() -> None:
    model = load_model(model_folder("random-qwen2_5_vl"))
    for _ in range(2):
        install_packed_attention(model)
    assert model.get_decoder().config._attn_implementation == PACKED_SDPA
    assert model.model.visual.config._attn_implementation == "sdpa"
    assert PACKED_SDPA not in model.config.to_json_string()


def test_no_mask_over_the_whole_row_is_ever_made(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[Any] = []

    def listening(*args: Any, **kwargs: Any) -> Any:
        masks.append(packed_mask(*args, **kwargs))
        return masks[-1]

    from transformers import AttentionMaskInterface

    monkeypatch.setitem(AttentionMaskInterface._global_mapping, PACKED_SDPA, listening)
    with torch.no_grad():
        loss_of(fresh_model(name), collator_of(name)(ROWS))
    assert [mask.numel() for mask in masks] == [0]


def test_a_packed_row_that_does_not_say_where_samples_begin_is_refused(name: str) -> None:
    batch = collator_of(name)(ROWS)
    with pytest.raises(ValueError, match="without cu_seq_lens_q"), torch.no_grad():
        fresh_model(name)(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        )


def test_the_tower_is_not_told_where_samples_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own lengths have the same names for FlashAttention; transformers keeps the row's away."""
    model = fresh_model("random-qwen2_5_vl")
    told: list[str] = []
    visual = model.get_base_model().model.visual
    with monkeypatch.context() as patch:
        forward = visual.forward
        patch.setattr(visual, "forward", lambda *a, **k: told.extend(k) or forward(*a, **k))
        with torch.no_grad():
            loss_of(model, collator_of("random-qwen2_5_vl")(ROWS))
    assert "grid_thw" in told
    assert not [key for key in told if key.startswith(("cu_seq", "max_length"))]


LENGTHS = [[1], [5], [1, 1, 1], [7, 1, 3], [1, 30, 2, 17]]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_attention_of_any_lengths_and_head_groups_equals_a_dense_block_mask(
    lengths: list[int], heads: tuple[int, int]
) -> None:
    total = sum(lengths)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, count, total, 8, generator=generator, requires_grad=True)
        for count in (heads[0], heads[1], heads[1])
    )
    module = torch.nn.Module()
    module.num_key_value_groups = heads[0] // heads[1]  # type: ignore[assignment]
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    found, _ = packed_sdpa(module, query, key, value, None, 0.0, 0.3, starts, max(lengths))
    block = torch.block_diag(*[torch.ones(n, n).tril() for n in lengths]).bool()
    repeated = [each.repeat_interleave(heads[0] // heads[1], 1) for each in (key, value)]
    scores = (query @ repeated[0].transpose(2, 3) * 0.3).masked_fill(~block, -torch.inf)
    expected = (scores.softmax(-1) @ repeated[1]).transpose(1, 2)
    assert torch.allclose(found, expected, atol=1e-6)
    weights = torch.randn(expected.shape, generator=generator)
    ours = torch.autograd.grad((found * weights).sum(), (query, key, value))
    theirs = torch.autograd.grad((expected * weights).sum(), (query, key, value))
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(ours, theirs, strict=True))


def test_packing_holds_under_autocast(name: str) -> None:
    model, collator = fresh_model(name), collator_of(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        packed = float(loss_of(model, collator(ROWS)))
        alone = sum(float(loss_of(model, collator.padded([row]))) for row in ROWS)
    assert packed == pytest.approx(alone, rel=2e-3)


@pytest.mark.parametrize("name", VISION_MODELS)
def test_packed_cached_features_give_the_gradients_of_packed_pixels(name: str) -> None:
    """As a training with the vision cache does it, one image through the tower at a time."""
    model, samples, encoder = fresh_model(name), samples_of(name), encoder_of(name)

    def features_for(sample: int, grid: ImageGrid, kernels: Any) -> list[ImageFeatures]:
        prepared = [grid.prepare(image) for image in samples[sample].images]
        values = [encoder._pixels([each]) for each in prepared]
        return [compute_features(model, *map(torch.from_numpy, each)) for each in values]  # type: ignore[arg-type]

    live = collator_of(name)(ROWS)
    cached = collator_of(name, features=features_for)(ROWS)
    levels = cached.pop("deepstack_features", None)
    images = cached.pop("image_features")
    outputs = as_encoder_outputs(
        images, levels, cached["image_grid_thw"], family_of(model_folder(name))
    )
    expected_loss, expected = gradients_of(model, [live])
    loss, found = gradients_of(model, [cached | {"mm_encoder_outputs": {"image": outputs}}])
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for key, gradient in expected.items():
        scale = float(gradient.abs().max())
        assert torch.allclose(found[key], gradient, rtol=1e-4, atol=1e-5 * scale), key


# The proof, and what it refuses.


def test_the_proof_passes_and_says_what_it_saw(name: str) -> None:
    proof = prove(name, collator_of(name)(ROWS))
    assert proof.samples == 4
    assert proof.difference <= proof.tolerance <= 1e-4
    assert proof.crossing <= 1e-5
    assert proof.as_json()["tokens"] == proof.tokens > 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random-qwen2_5_vl", "random-qwen3"])
def test_the_proof_holds_over_a_4_bit_base(name: str) -> None:
    """And finds merged samples there too, at the tolerance of bf16."""
    model = load_model(model_folder(name), dtype="bfloat16", quantization=QuantizationSection())
    install_packed_attention(model)
    packed = collator_of(name)(ROWS)
    proof = prove(name, packed, model)
    assert proof.tolerance >= 2e-3
    merged = packed["cu_seq_lens_q"][[0, 1, 3, 4]]
    with pytest.raises(StageError, match="packing is not sound"):
        prove(name, packed | {"cu_seq_lens_q": merged}, model)


def test_the_proof_leaves_the_model_in_its_mode() -> None:
    model = fresh_model("random-qwen3")
    model.train()
    prove("random-qwen3", collator_of("random-qwen3")(ROWS))
    assert model.training
    model.eval()


def test_merged_samples_are_refused(name: str) -> None:
    """The second and third samples in one, as with a mask that forgot a boundary."""
    packed = collator_of(name)(ROWS)
    starts = packed["cu_seq_lens_q"]
    merged = torch.cat([starts[:2], starts[3:]])
    with pytest.raises(StageError, match="loss of sample 3 of 4") as caught:
        prove(name, packed | {"cu_seq_lens_q": merged, "cu_seq_lens_k": merged})
    assert "train.packing=off" in str(caught.value)


def test_a_boundary_one_token_off_is_refused(name: str) -> None:
    packed = collator_of(name)(ROWS)
    shifted = packed["cu_seq_lens_q"].clone()
    shifted[1] -= 1
    with pytest.raises(StageError, match="packing is not sound"):
        prove(name, packed | {"cu_seq_lens_q": shifted, "cu_seq_lens_k": shifted})


@pytest.mark.parametrize("name", VISION_MODELS)
def test_three_rows_of_positions_without_a_mask_are_refused(name: str) -> None:
    """transformers' own attention, positions of the row as a whole: samples cross silently."""
    plain = load_model(model_folder(name))
    packed = collator_of(name)(ROWS)
    three, _ = plain.model.get_rope_index(
        packed["input_ids"],
        mm_token_type_ids=packed["mm_token_type_ids"],
        image_grid_thw=packed["image_grid_thw"],
    )
    with pytest.raises(StageError, match="packing is not sound"):
        prove(name, packed | {"position_ids": three}, plain)


@pytest.mark.parametrize("name", VISION_MODELS)
def test_positions_of_text_on_image_tokens_are_refused(name: str) -> None:
    packed = collator_of(name, positions=lambda each: text_positions(each).expand(4, 1, -1))(ROWS)
    with pytest.raises(StageError, match="loss of sample 1 of 4"):
        prove(name, packed)


def test_a_row_of_other_samples_is_refused(name: str) -> None:
    packed = collator_of(name)([*ROWS[1:], ROWS[0]])
    with pytest.raises(StageError, match="does not hold the samples"):
        prove(name, packed)


def test_crossing_is_found_where_losses_cannot_tell(name: str) -> None:
    """One logit of the first sample is added to all of the row's, which changes no loss at all."""
    model = load_model(model_folder(name), dtype="bfloat16")
    install_packed_attention(model)
    collator = collator_of(name)
    batches = [collator.padded([row]) for row in ROWS]

    def leaking(inputs: dict[str, Any], rows: Any) -> torch.Tensor:
        values = model(**inputs, logits_to_keep=rows).logits.float()
        return values + values[:, :1, :1] if "cu_seq_lens_q" in inputs else values

    def prove_with(logits: Callable[..., Any] | None) -> Any:
        return prove_packing(
            model,
            packed=collator(ROWS),
            padded=collator.padded(ROWS),
            singles=batches,
            logits=logits,
        )

    prove_with(None)
    with pytest.raises(StageError, match="see each other"):
        prove_with(leaking)


# Where packing is possible.


def settings(packing: str) -> Any:
    return parse_config({"train": {"packing": packing}})


@pytest.fixture
def decoder_config() -> Iterator[Any]:
    """Of a model that the test may change."""
    config = fresh_model("random-qwen3").get_base_model().get_decoder().config
    before = {key: getattr(config, key) for key in ("_attn_implementation", "layer_types")}
    yield config
    for key, value in before.items():
        setattr(config, key, value)


def test_packing_is_on_by_itself_where_it_can_be(name: str) -> None:
    packed, reason = packing_for(settings("auto"), fresh_model(name))
    assert packed
    assert reason.startswith("sdpa attention")
    assert packing_for(settings("on"), fresh_model(name))[0]
    assert packing_for(settings("off"), fresh_model(name)) == (False, "train.packing=off")


@pytest.mark.parametrize(
    "key, value, reason",
    [
        ("_attn_implementation", "eager", "eager attention cannot"),
        ("layer_types", ["full_attention", "sliding_attention"], "layers of sliding_attention"),
    ],
)
def test_packing_is_off_by_itself_where_it_cannot_be_and_says_why(
    decoder_config: Any, key: str, value: Any, reason: str
) -> None:
    setattr(decoder_config, key, value)
    model = fresh_model("random-qwen3")
    packed, told = packing_for(settings("auto"), model)
    assert not packed
    assert reason in told
    with pytest.raises(StageError, match=r"train\.packing=on is not possible") as caught:
        packing_for(settings("on"), model)
    assert reason in str(caught.value)


def test_flash_attention_is_left_to_its_own_varlen_path(decoder_config: Any) -> None:
    decoder_config._attn_implementation = "flash_attention_2"
    model = fresh_model("random-qwen3")
    install_packed_attention(model)
    assert decoder_config._attn_implementation == "flash_attention_2"
    assert packing_for(settings("on"), model)[0]


def test_positions_hold_on_to_no_weights() -> None:
    positions = positions_for(fresh_model("random-qwen2_5_vl"))
    assert not list(positions._bare.parameters())  # type: ignore[attr-defined]
    encoded = encoder_of("random-qwen2_5_vl").encode_sample(table_sample(0).messages)
    assert positions(encoded).shape == (4, 1, len(encoded.input_ids))
    assert positions(replace_image(encoded)).shape == (4, 1, len(encoded.input_ids))


def replace_image(encoded: Encoded) -> Encoded:
    return replace(encoded, image_grid_thw=None, pixel_values=None)
