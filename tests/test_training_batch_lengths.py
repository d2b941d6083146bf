"""Lengths by arithmetic and encodings without pixels, held against real encodings."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from model_folders import RANDOM_MODELS, VISION_MODELS, encoder_of, picture
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.images import upright_size
from vlmpipe.training.batching.lengths import SampleLengths

SIZES = [(150, 110), (31, 40), (701, 523), (90, 640), (224, 224)]
"""Widths and heights."""

BOXES = [None, (112, 112), (168, 280), (448, 448)]


def samples_of(name: str) -> list[Sample]:
    """Without an image, with one of each size, and with two."""
    images = [picture(*size) for size in SIZES] if name in VISION_MODELS else []
    contents: list[tuple[str | Image.Image, ...]] = [("Plain text.",)]
    contents += [(image, f"What is in picture {place}?") for place, image in enumerate(images)]
    contents += [("First", images[0], "then", images[1])] if images else []
    return [
        Sample(
            id=f"s{place}",
            messages=(Message("user", parts), Message("assistant", ("한글 and text. " * place,))),
            task="qa",
        )
        for place, parts in enumerate(contents)
    ]


def photograph(orientation: int) -> Image.Image:
    """A JPEG as a phone writes it: 90x60 pixels as stored, and how to turn them."""
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(90, 60).save(stream, format="JPEG", exif=exif)
    return Image.open(io.BytesIO(stream.getvalue()))


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_lengths_at_every_image_size_are_those_of_real_encodings(name: str) -> None:
    encoder, samples = encoder_of(name), samples_of(name)
    lengths = SampleLengths.measure(samples, encoder)
    assert len(lengths) == len(samples)
    for box in BOXES:
        grid = encoder.contract.grid.within(box)
        for index, sample in enumerate(samples):
            encoded = encoder.encode_sample(sample.messages, grid=grid)
            assert lengths.tokens(index, grid) == len(encoded.input_ids)
            assert lengths.image_tokens(index, grid) == sum(encoded.image_mask)


def test_a_system_prompt_counts() -> None:
    plain = encoder_of("random-qwen2_5_vl")
    contract = plain.contract.model_copy(update={"system_prompt": "Answer briefly."})
    told = Encoder(plain.tokenizer, contract)
    samples = samples_of("random-qwen2_5_vl")
    grid = told.contract.grid
    lengths = SampleLengths.measure(samples, told)
    for index, sample in enumerate(samples):
        assert lengths.tokens(index, grid) == len(told.encode_sample(sample.messages).input_ids)


def test_the_aspect_is_that_of_the_largest_image() -> None:
    samples = samples_of("random-qwen2_5_vl")
    lengths = SampleLengths.measure(samples, encoder_of("random-qwen2_5_vl"))
    assert lengths.aspect(0) == 1
    assert lengths.aspect(1) == pytest.approx(110 / 150)
    assert lengths.aspect(len(samples) - 1) == pytest.approx(110 / 150)


@pytest.mark.parametrize("name", VISION_MODELS)
def test_an_encoding_without_pixels_differs_in_nothing_but_the_pixels(name: str) -> None:
    encoder = encoder_of(name)
    for box in BOXES:
        grid = encoder.contract.grid.within(box)
        for sample in samples_of(name):
            whole = encoder.encode_sample(sample.messages, "assistant", grid)
            light = encoder.encode_sample(sample.messages, "assistant", grid, pixels=False)
            assert light.pixel_values is None
            assert replace(whole, pixel_values=None, image_grid_thw=None) == replace(
                light, image_grid_thw=None
            )
            if sample.images:
                assert np.array_equal(light.image_grid_thw, whole.image_grid_thw)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photograph_is_measured_upright_and_not_decoded(orientation: int) -> None:
    encoder = encoder_of("random-qwen2_5_vl")
    image = photograph(orientation)
    sample = Sample(
        "photo", (Message("user", (image, "What?")), Message("assistant", ("A.",))), "qa"
    )
    assert upright_size(image) == ((60, 90) if orientation < 5 else (90, 60))
    lengths = SampleLengths.measure([sample], encoder)
    grid = encoder.contract.grid.within((56, 140))
    light = encoder.encode_sample(sample.messages, grid=grid, pixels=False)
    assert not hasattr(image, "_im") or image._im is None
    whole = encoder.encode_sample(sample.messages, grid=grid)
    assert light.input_ids == whole.input_ids
    assert lengths.tokens(0, grid) == len(whole.input_ids)


def test_measuring_a_png_decodes_no_pixel() -> None:
    stream = io.BytesIO()
    picture().save(stream, format="PNG")
    damaged = stream.getvalue()[:-200]
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(damaged)).load()
    sample = Sample(
        "cut",
        (
            Message("user", (Image.open(io.BytesIO(damaged)), "What?")),
            Message("assistant", ("A.",)),
        ),
        "qa",
    )
    encoder = encoder_of("random-qwen2_5_vl")
    lengths = SampleLengths.measure([sample], encoder)
    light = encoder.encode_sample(sample.messages, pixels=False)
    assert lengths.tokens(0, encoder.contract.grid) == len(light.input_ids)
