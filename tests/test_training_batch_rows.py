"""Rows to tensors: muted ones, cached features, drawn kernels, bad samples; resumes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from model_folders import encoder_of, model_folder, table_sample
from training_runs import tiny_config
from vlmpipe.config.train import ResizeKernel
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.encoding.encoder import IGNORED
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import StageError
from vlmpipe.models.families import family_of
from vlmpipe.models.loading import load_model
from vlmpipe.training.adapter import make_trainable
from vlmpipe.training.augment import KernelLot
from vlmpipe.training.batching.collator import PhaseCollator
from vlmpipe.training.batching.packed_attention import install_packed_attention
from vlmpipe.training.batching.plan import BatchRule, plan_batches
from vlmpipe.training.batching.positions import positions_for
from vlmpipe.training.batching.rows import Row
from vlmpipe.training.batching.sampler import PlannedRows, PlanSampler
from vlmpipe.training.vision_cache.features import ImageFeatures

MODEL = "random-qwen2_5_vl"
KERNELS: tuple[ResizeKernel, ...] = ("bicubic", "llama_cpp", "bilinear")


def collator_of(samples: Sequence[Sample], **settings: Any) -> PhaseCollator:
    encoder = encoder_of(MODEL)
    grid = encoder.contract.grid.within((112, 112))
    return PhaseCollator(samples, encoder, "assistant", grid, **settings)


@pytest.fixture(scope="module")
def model() -> Any:
    folder = model_folder(MODEL)
    config = tiny_config(method="lora").train
    trained = make_trainable(load_model(folder), family_of(folder), config, seed=0)
    install_packed_attention(trained)
    return trained


def backward(model: Any, batches: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Gradients of the summed loss, forward and backward for each batch."""
    model.zero_grad()
    for batch in batches:
        inputs = dict(batch)
        labels = inputs.pop("labels")[:, 1:].flatten()
        logits = model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
        cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum").backward()
    return {
        key: each.grad.clone() for key, each in model.named_parameters() if each.grad is not None
    }


class Encoding(PhaseCollator):
    """Counts what it encodes."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.encoded: list[Row] = []

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        self.encoded += rows
        return super().__call__(rows)


# Resuming.


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("done", [0, 1, 5])
def test_a_resume_in_the_middle_encodes_nothing_of_what_was_done(done: int, prepared: bool) -> None:
    samples = [table_sample(seed) for seed in range(5)]
    rule = BatchRule(batch_tokens=150)
    plan = plan_batches(range(5), [60] * 5, [1.0] * 5, rule=rule, seed=1, epochs=2)
    collators = []

    def loader_of() -> Any:
        encoder = encoder_of(MODEL)
        collators.append(
            Encoding(samples, encoder, "assistant", encoder.contract.grid.within((112, 112)))
        )
        batches = plan.of_process(0)
        loader: Any = DataLoader(
            PlannedRows(len(samples)), batch_sampler=PlanSampler(batches), collate_fn=collators[-1]
        )
        if prepared:
            loader = prepare_data_loader(loader, num_processes=1, process_index=0)
        return loader

    whole = list(loader_of())
    assert len(whole) == len(plan.batches)
    resumed_loader = skip_first_batches(loader_of(), done)
    assert len(resumed_loader) == len(whole) - done
    resumed = list(resumed_loader)
    for expected, found in zip(whole[done:], resumed, strict=True):
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert collators[-1].encoded == [row for batch in plan.batches[done:] for row in batch]


def test_a_loader_is_as_long_as_the_processes_share() -> None:
    plan = plan_batches(
        range(7), [10] * 7, [1.0] * 7, rule=BatchRule(1), processes=3, seed=0, epochs=1
    )
    assert [len(PlanSampler(plan.of_process(rank))) for rank in range(3)] == [3, 3, 3]


# Muted rows.


@pytest.mark.parametrize("packed", [False, True])
def test_a_muted_row_adds_exactly_nothing(model: Any, packed: bool) -> None:
    """It is computed like any other, and no gradient moves by a bit."""
    samples = [table_sample(seed) for seed in range(2)]
    positions = positions_for(model) if packed else None
    collator = collator_of(samples, positions=positions)
    real, muted = collator([Row(0), Row(1)]), collator([Row(1, muted=True)])
    assert (muted["labels"] == IGNORED).all()
    assert muted["input_ids"].numel() > 1
    assert "pixel_values" in muted
    expected = backward(model, [real])
    found = backward(model, [real, muted])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], gradient) for key, gradient in expected.items())
    assert not any(gradient.any() for gradient in backward(model, [muted]).values())


def test_a_muted_row_beside_others_mutes_only_itself() -> None:
    samples = [table_sample(seed) for seed in range(2)]
    collator = collator_of(samples)
    batch = collator([Row(0), Row(1, muted=True)])
    assert (batch["labels"][1] == IGNORED).all()
    assert torch.equal(batch["labels"][0], collator([Row(0), Row(1)])["labels"][0])


@pytest.mark.parametrize("packed", [False, True])
def test_a_samples_first_token_is_never_a_label(packed: bool) -> None:
    """In a packed row another sample's last token would foretell it."""
    samples = [table_sample(seed, vision=False) for seed in range(3)]
    encoder = encoder_of(MODEL)
    positions = positions_for(load_model(model_folder(MODEL))) if packed else None
    collator = PhaseCollator(
        samples, encoder, "all_text", encoder.contract.grid, positions=positions
    )
    batch = collator([Row(0), Row(1), Row(2)])
    lengths = [len(encoder.encode_sample(sample.messages).input_ids) for sample in samples]
    assert int((batch["labels"] != IGNORED).sum()) == sum(lengths) - 3


# Features in place of pixels.


class Source:
    """Features that say which sample, image and kernel they are of."""

    def __init__(self, samples: Sequence[Sample], levels: int) -> None:
        self._samples = samples
        self._levels = levels
        self.asked: list[tuple[int, tuple[ResizeKernel, ...]]] = []

    def __call__(
        self, sample: int, grid: ImageGrid, kernels: Sequence[ResizeKernel]
    ) -> list[ImageFeatures]:
        self.asked.append((sample, tuple(kernels)))
        images = self._samples[sample].images
        counts = [grid.tokens(image.height, image.width) for image in images]
        return [
            ImageFeatures(
                torch.full((count, 4), float(10 * sample + place)),
                tuple(torch.full((count, 4), float(level)) for level in range(self._levels)),
            )
            for place, count in enumerate(counts)
        ]


def undecodable(seed: int) -> Sample:
    """`table_sample` with an image that has a header and no pixels."""
    whole = table_sample(seed)
    stream = io.BytesIO()
    whole.images[0].save(stream, format="PNG")
    image = Image.open(io.BytesIO(stream.getvalue()[:60]))
    question = Message("user", (image, whole.messages[0].text))
    return Sample(
        f"cut{seed}", (question, whole.messages[1]), "qa", origin=f"pages.jsonl:{seed + 1}"
    )


@pytest.mark.parametrize("levels", [0, 3])
def test_with_features_no_image_is_decoded_and_all_else_is_the_same(levels: int) -> None:
    whole = [table_sample(0), table_sample(1, vision=False), table_sample(2)]
    headers = [undecodable(0), table_sample(1, vision=False), undecodable(2)]
    rows = [Row(2), Row(1), Row(0)]
    live = collator_of(whole)(rows)
    cached = collator_of(headers, features=Source(headers, levels))(rows)
    for key in ("input_ids", "labels", "attention_mask", "mm_token_type_ids", "image_grid_thw"):
        assert torch.equal(cached[key], live[key]), key
    assert "pixel_values" not in cached
    tokens = int(live["mm_token_type_ids"].sum())
    assert cached["image_features"].shape == (tokens, 4)
    assert cached["image_features"].unique(dim=0)[:, 0].tolist() == [0, 20]
    assert cached["image_features"][0, 0] == 20
    assert ("deepstack_features" in cached) == bool(levels)
    if levels:
        assert cached["deepstack_features"].shape == (levels, tokens, 4)
        assert cached["deepstack_features"][:, 0, 0].tolist() == [0, 1, 2]


def test_a_batch_without_images_has_no_features() -> None:
    samples = [table_sample(0, vision=False)]
    batch = collator_of(samples, features=Source(samples, 0))([Row(0)])
    assert set(batch) == {"input_ids", "labels", "attention_mask"}


# Kernels.


def test_kernels_are_drawn_by_phase_and_pass_for_pixels_and_features_alike() -> None:
    samples = [table_sample(seed) for seed in range(6)]
    lot = KernelLot(KERNELS, 1)
    source = Source(samples, 0)
    cached = collator_of(samples, phase=2, lot=lot, features=source)
    rows = [Row(number, epoch) for epoch in (0, 1) for number in range(6)]
    cached(rows)
    drawn = [(row.sample, (lot.draw(f"s{row.sample}", 2, row.epoch, 0),)) for row in rows]
    assert source.asked == drawn
    assert drawn[:6] != drawn[6:]
    encoder = encoder_of(MODEL)
    grid = encoder.contract.grid.within((112, 112))
    live = collator_of(samples, phase=2, lot=lot)(rows)
    expected = [
        encoder.encode_sample(samples[sample].messages, "assistant", grid, kernels).pixel_values
        for sample, kernels in drawn
    ]
    assert np.array_equal(live["pixel_values"].numpy(), np.concatenate(expected))  # type: ignore[arg-type]


# Bad samples.


def test_a_sample_that_cannot_be_decoded_is_told_with_its_file_and_line() -> None:
    samples = [table_sample(0), undecodable(3)]
    with pytest.raises(
        StageError, match=r"sample cut3 \(pages\.jsonl:4\) cannot be encoded"
    ) as told:
        collator_of(samples)([Row(0), Row(1)])
    assert told.value.__cause__ is not None


def test_a_sample_that_cannot_be_read_is_told_with_its_number() -> None:
    class Broken(list[Sample]):
        def __getitem__(self, index: Any) -> Any:
            raise OSError("read error")

    with pytest.raises(StageError, match=r"training sample number 1 .*OSError: read error"):
        collator_of(Broken([table_sample(0)] * 2))([Row(1)])


def test_a_cache_that_lacks_a_sample_is_told_with_that_samples_name() -> None:
    def lacking(*_: Any) -> list[ImageFeatures]:
        raise KeyError("no features")

    with pytest.raises(StageError, match=r"sample s0 \(test:0\)"):
        collator_of([table_sample(0)], features=lacking)([Row(0)])


def test_packing_needs_positions() -> None:
    with pytest.raises(ValueError, match="without positions"):
        collator_of([table_sample(0)]).packed([Row(0)])
