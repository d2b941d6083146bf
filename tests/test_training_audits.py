"""Audits of data: images against their tokens, lengths, masks, batches; each broken on purpose."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from model_folders import RANDOM_MODELS, VISION_MODELS, encoder_of, model_folder, picture
from training_runs import samples_for, tiny_config
from vlmpipe.config import Config, parse_config
from vlmpipe.config.train import LossScope
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.encoding.encoder import IGNORED, Encoder
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import BadSamplesError, StageError
from vlmpipe.models.loading import load_model
from vlmpipe.training.audits.batches import audit_batch
from vlmpipe.training.audits.image_tokens import audit_image_tokens, audit_tower
from vlmpipe.training.audits.lengths import (
    LengthLimit,
    fit_lengths,
    length_limit,
    position_limit,
)
from vlmpipe.training.audits.masks import audit_masks, find_mask_fault
from vlmpipe.training.audits.smaller_grids import key_for, smaller_grids
from vlmpipe.training.batching.collator import pad_batch
from vlmpipe.training.batching.lengths import SampleLengths
from vlmpipe.training.curriculum import Phase

SCOPES: tuple[LossScope, ...] = ("assistant_after_image", "after_image", "assistant", "all_text")


def grids_of(encoder: Encoder) -> list[ImageGrid]:
    return [encoder.contract.grid.within(box) for box in ((112, 112), (168, 224), (224, 168))]


def sized_sample(width: int, height: int, number: int = 1, words: str = "read it") -> Sample:
    return Sample(
        id=f"s{number}",
        messages=(
            Message("user", (picture(width, height), words)),
            Message("assistant", ("ok",)),
        ),
        task="table",
        origin=f"data.jsonl:{number}",
    )


def phase_of(samples: list[Sample], encoder: Encoder, box: tuple[int, int] = (448, 448)) -> Phase:
    grid = encoder.contract.grid.within(box)
    return Phase(0, "448", grid, tuple(range(len(samples))), 1, 0, 1e-3)


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_every_sample_is_held_against_its_images_at_every_grid(name: str) -> None:
    encoder, samples = encoder_of(name), samples_for(name, 6)
    audit = audit_image_tokens(
        samples, SampleLengths.measure(samples, encoder), encoder, grids_of(encoder)
    )
    assert audit.samples == 6
    assert audit.encoded == 4 * 3
    assert (audit.images, audit.most > 0) == ((6, True) if name in VISION_MODELS else (0, False))


@pytest.mark.parametrize("one_more", [1, -1])
def test_an_image_token_too_many_or_too_few_is_refused_with_its_origin(
    one_more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, samples = encoder_of("random-qwen2_5_vl"), samples_for("random-qwen2_5_vl")
    lengths, tokenize = SampleLengths.measure(samples, encoder), Encoder._tokenize

    def wrong(self: Encoder, segments: Any, counts: Any) -> Any:
        return tokenize(self, segments, [count + one_more for count in counts])

    monkeypatch.setattr(Encoder, "_tokenize", wrong)
    with pytest.raises(StageError, match=r"sample s0 \(test:0\).*image tokens, where its 1 images"):
        audit_image_tokens(samples, lengths, encoder, grids_of(encoder))


def test_a_plan_that_counts_other_tokens_than_the_encoding_is_refused() -> None:
    encoder, samples = encoder_of("random-qwen2_5_vl"), samples_for("random-qwen2_5_vl")
    others = SampleLengths.measure([sized_sample(700, 20)] * 4, encoder)
    with pytest.raises(StageError, match="were planned for it"):
        audit_image_tokens(samples, others, encoder, grids_of(encoder))


def test_a_size_that_departs_from_the_arithmetic_is_found_when_the_pixels_are_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder, samples = encoder_of("random-qwen2_5_vl"), samples_for("random-qwen2_5_vl")
    lengths, prepare = SampleLengths.measure(samples, encoder), ImageGrid.prepare

    def larger(self: ImageGrid, image: Any, kernel: Any = "bicubic") -> Any:
        done = prepare(self, image, kernel)
        return done.resize((done.width + self.factor, done.height))

    monkeypatch.setattr(ImageGrid, "prepare", larger)
    with pytest.raises(StageError, match=r"sample s0 .* does not match its images"):
        audit_image_tokens(samples, lengths, encoder, grids_of(encoder))


@pytest.mark.parametrize("name", VISION_MODELS)
def test_the_tower_gives_a_row_for_each_image_token(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, model = encoder_of(name), load_model(model_folder(name))
    sample = samples_for(name)[0]
    for grid in grids_of(encoder):
        assert audit_tower(model, sample, encoder, grid) == grid.tokens(110, 150)
    monkeypatch.setattr(ImageGrid, "tokens", lambda self, height, width: 99)
    with pytest.raises(StageError, match=r"features of an image of 99 tokens"):
        audit_tower(model, sample, encoder, grids_of(encoder)[0])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("by", [1, -1])
def test_a_mask_shifted_by_one_is_found_in_every_scope(scope: LossScope, by: int) -> None:
    encoder = encoder_of("random-qwen2_5_vl")
    sample = samples_for("random-qwen2_5_vl")[0]
    encoded = encoder.encode_sample(sample.messages, scope)
    assert find_mask_fault(sample, encoded, encoder, scope) is None
    mask = [label != IGNORED for label in encoded.labels]
    moved = mask[-by:] + mask[:-by]
    labels = [
        token if kept else IGNORED for token, kept in zip(encoded.input_ids, moved, strict=True)
    ]
    wrong = dataclasses.replace(encoded, labels=labels)
    assert find_mask_fault(sample, wrong, encoder, scope) is not None
    wrong = dataclasses.replace(encoded, labels=encoded.labels[-by:] + encoded.labels[:-by])
    assert find_mask_fault(sample, wrong, encoder, scope) is not None


def test_an_encoder_that_masks_one_token_late_does_not_train(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder, samples = encoder_of("random-qwen2_5_vl"), samples_for("random-qwen2_5_vl")
    labels_of = Encoder._labels

    def late(self: Encoder, ids: Any, is_answer: Any, scope: Any) -> Any:
        return labels_of(self, ids, [False, *is_answer[:-1]], scope)

    monkeypatch.setattr(Encoder, "_labels", late)
    with pytest.raises(StageError, match=r"loss mask of sample s0 \(test:0\) is wrong"):
        audit_masks(samples, encoder, "assistant_after_image", encoder.contract.grid)


def batch_of(encoder: Encoder, samples: list[Sample]) -> dict[str, Any]:
    encoded = [encoder.encode_sample(sample.messages) for sample in samples]
    return pad_batch(encoded, encoder.tokenizer.pad_token_id)


def test_a_batch_is_held_against_labels_images_and_padding() -> None:
    encoder = encoder_of("random-qwen2_5_vl")
    samples = [sized_sample(150, 110), sized_sample(150, 110, words="read this much longer ask")]
    audit_batch(batch_of(encoder, samples), encoder, "a test")

    shifted = batch_of(encoder, samples)
    shifted["labels"] = shifted["labels"].roll(1, dims=1)
    assert_refused(shifted, encoder, "a label is not the token at its own place")

    image = batch_of(encoder, samples)
    is_image = image["input_ids"] == encoder.image_token_id
    image["labels"][is_image] = encoder.image_token_id
    assert_refused(image, encoder, "an image token is supervised")

    padded = batch_of(encoder, samples)
    empty = padded["attention_mask"] == 0
    assert bool(empty.any())
    padded["labels"][empty] = padded["input_ids"][empty]
    assert_refused(padded, encoder, "padding is supervised")

    one_more = batch_of(encoder, samples)
    one_more["input_ids"][0, 0] = encoder.image_token_id
    assert_refused(one_more, encoder, "image tokens, where its images have")

    types = batch_of(encoder, samples)
    types["mm_token_type_ids"] = types["mm_token_type_ids"].roll(1, dims=1)
    assert_refused(types, encoder, "do not mark the image tokens")

    features = batch_of(encoder, samples)
    features["image_features"] = features.pop("pixel_values")
    assert_refused(features, encoder, "ready features for")


def assert_refused(batch: dict[str, Any], encoder: Encoder, fault: str) -> None:
    with pytest.raises(StageError, match=fault):
        audit_batch(batch, encoder, "a test")


def at_most(
    max_length: int, on_bad: str = "refuse", positions: int | None = None
) -> tuple[Config, LengthLimit]:
    settings = {"train": {"max_length": max_length}, "data": {"on_bad_sample": on_bad}}
    config = parse_config(settings)
    return config, length_limit(config, positions)


def test_too_long_samples_are_refused_by_file_and_line_with_a_size_that_fits() -> None:
    encoder = encoder_of("random-qwen2_5_vl")
    samples = [sized_sample(140, 112, 1), sized_sample(448, 448, 2)]
    lengths, phase = SampleLengths.measure(samples, encoder), phase_of(samples, encoder)
    most = lengths.tokens(1, phase.grid)
    with pytest.raises(
        BadSamplesError, match=r"1 samples are longer than train.max_length="
    ) as got:
        fit_lengths([phase], samples, lengths, *at_most(most - 100))
    assert got.value.problems == (f"data.jsonl:2: takes {most} tokens in phase 448",)
    assert f"take them whole: train.max_length={most}" in got.value.remedies
    size = next(remedy for remedy in got.value.remedies if "max_size" in remedy)
    assert "phase 448" in size
    box = size.partition("[")[2].partition("]")[0].split(", ")
    smaller = phase_of(samples, encoder, (int(box[0]), int(box[1])))
    kept, audit = fit_lengths([smaller], samples, lengths, *at_most(most - 100))
    assert kept == [smaller]
    assert audit.lines() == []
    # The next larger one does not fit: it is the largest.
    larger = phase_of(samples, encoder, (int(box[0]) + 28, int(box[1]) + 28))
    with pytest.raises(BadSamplesError):
        fit_lengths([larger], samples, lengths, *at_most(most - 100))


def test_too_long_samples_are_left_out_of_the_phase_and_told_when_asked_to_skip() -> None:
    encoder = encoder_of("random-qwen2_5_vl")
    samples = [sized_sample(140, 112, 1), sized_sample(448, 448, 2)]
    lengths, phase = SampleLengths.measure(samples, encoder), phase_of(samples, encoder)
    small = phase_of(samples, encoder, (112, 112))
    kept, audit = fit_lengths([small, phase], samples, lengths, *at_most(200, "skip"))
    assert [each.indices for each in kept] == [(0, 1), (0,)]
    assert [len(row.dropped) for row in audit.phases] == [0, 1]
    assert audit.as_json()["phases"][1]["dropped"][0]["origin"] == "data.jsonl:2"
    (line,) = audit.lines()
    assert "1 of 2 samples are longer than train.max_length=200 and are left out" in line
    with pytest.raises(BadSamplesError, match="a phase would be left without samples"):
        fit_lengths([phase], samples, lengths, *at_most(16, "skip"))


def test_a_text_that_is_too_long_by_itself_is_offered_no_smaller_image() -> None:
    encoder = encoder_of("random-qwen3")
    samples = samples_for("random-qwen3", 1)
    lengths, phase = SampleLengths.measure(samples, encoder), phase_of(samples, encoder)
    with pytest.raises(BadSamplesError) as got:
        fit_lengths([phase], samples, lengths, *at_most(16))
    assert not any("smaller" in remedy for remedy in got.value.remedies)


def test_the_models_own_positions_are_a_limit_that_no_setting_lifts() -> None:
    encoder, folder = encoder_of("random-qwen2_5_vl"), model_folder("random-qwen2_5_vl")
    assert position_limit(folder) == 8192
    samples = [sized_sample(448, 448)]
    lengths, phase = SampleLengths.measure(samples, encoder), phase_of(samples, encoder)
    with pytest.raises(BadSamplesError, match="max_position_embeddings=100") as got:
        fit_lengths([phase], samples, lengths, *at_most(4096, positions=100))
    assert not any("train.max_length" in remedy for remedy in got.value.remedies)


def test_a_model_that_states_no_positions_sets_no_limit(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert position_limit(tmp_path) is None


def test_smaller_grids_shrink_by_one_image_token_and_keep_the_boxs_aspect() -> None:
    grid = encoder_of("random-qwen2_5_vl").contract.grid.within((224, 448))
    boxes = [each.max_size for each in smaller_grids(grid)]
    assert boxes[0] == (196, 420)
    assert boxes[-1] is not None
    assert min(boxes[-1]) >= 64
    assert all(max(a) > max(b) for a, b in pairwise(boxes) if a and b)
    assert key_for(grid, "x") == "train.curriculum, max_size: [224, 448] for phase x"
    free = grid.within(None)
    pixels = [each.max_pixels for each in smaller_grids(free)]
    assert pixels == sorted(pixels, reverse=True)
    assert key_for(free, "x") == f"model.max_pixels={free.max_pixels}"


def test_the_tiny_configuration_of_the_tests_has_no_sample_that_is_too_long() -> None:
    config, name = tiny_config(), "random-qwen2_5_vl"
    encoder, samples = encoder_of(name), samples_for(name)
    lengths, phase = SampleLengths.measure(samples, encoder), phase_of(samples, encoder)
    _, audit = fit_lengths(
        [phase], samples, lengths, config, length_limit(config, position_limit(model_folder(name)))
    )
    assert audit.limited_by == "train.max_length=2048"
