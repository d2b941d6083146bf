"""Resizes of runtimes reproduced, held against the runtime itself; which of them training draws."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from model_folders import VISION_MODELS, encoder_of, picture
from serving_models import Conversions
from vlmpipe.config.train import AugmentSection, ResizeKernel
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.encoding.resize_kernels import fit_on_black, resize
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.training.augment import KernelLot

KERNELS: tuple[ResizeKernel, ...] = ("bicubic", "llama_cpp", "bilinear")
SIZES = [(97, 151), (225, 57), (70, 238), (345, 451), (56, 84), (523, 701), (40, 31)]
"""Heights and widths; at 225x57 the order of the two passes shows, at 70x238 the rounding does."""


def llama_cpp_size(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Rows and columns that libmtmd gives an image of any size.

    `smart_resize` in floats of 32 bits and with halves rounded up, where Python rounds them to
    even: 70x238 becomes 84x252, 27 image tokens, and not 56x224, which are 16. It knows of no box.
    """
    high, wide, side = np.float32(height), np.float32(width), np.float32(factor)
    rows = max(factor, math.floor(float(high / side) + 0.5) * factor)
    columns = max(factor, math.floor(float(wide / side) + 0.5) * factor)
    if rows * columns > max_pixels:
        beta = np.sqrt(high * wide / np.float32(max_pixels))
        rows = max(factor, math.floor(high / beta / side) * factor)
        columns = max(factor, math.floor(wide / beta / side) * factor)
    elif rows * columns < min_pixels:
        beta = np.sqrt(np.float32(min_pixels) / (high * wide))
        rows = math.ceil(high * beta / side) * factor
        columns = math.ceil(wide * beta / side) * factor
    return rows, columns


def blocks(height: int, width: int) -> Image.Image:
    """Coarse blocks of extreme colours: between the passes of a resize their values are clipped."""
    drawn = np.random.default_rng(height * width).integers(0, 2, (16, 16, 3), dtype=np.uint8) * 255
    return Image.fromarray(drawn).resize((width, height), Image.Resampling.NEAREST)


@pytest.fixture(scope="module", params=VISION_MODELS)
def runtime(request: pytest.FixtureRequest, conversions: Conversions) -> Iterator[LlamaCppEngine]:
    """llama.cpp left to resize by itself."""
    made = conversions.of(request.param)
    engine = LlamaCppEngine(
        made.gguf, made.mmproj, made.contract, name="x", n_threads=1, resize="runtime"
    )
    with closing(engine):
        yield engine


def size_of_runtime(grid: ImageGrid, height: int, width: int) -> tuple[int, int]:
    return llama_cpp_size(height, width, grid.factor, grid.min_pixels, grid.max_pixels)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_the_reproduced_resize_gives_the_runtimes_own_features(
    runtime: LlamaCppEngine, size: tuple[int, int]
) -> None:
    """Handed over on its grid, the reproduction is all that the tower sees."""
    image = blocks(*size)
    own = runtime.image_features(image)
    rows, columns = size_of_runtime(runtime.contract.grid, *size)
    same = distance(runtime.image_features(resize(image, rows, columns, "llama_cpp")), own)
    stretched = distance(runtime.image_features(resize(image, rows, columns, "bicubic")), own)
    assert same <= 1e-6
    assert stretched > 0.05


@pytest.mark.slow
def test_the_reproduced_size_is_the_runtimes(runtime: LlamaCppEngine) -> None:
    grid, vision = runtime.contract.grid, runtime._vision
    assert vision is not None
    differing = 0
    for height, width in np.random.default_rng(0).integers(8, 1600, (1000, 2)).tolist():
        rows, columns = size_of_runtime(grid, height, width)
        assert vision.image_tokens(height, width) == rows * columns // grid.factor**2
        differing += (rows, columns) != grid.target_size(height, width)
    assert differing > 0


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_halves_are_rounded_up_by_llama_cpp_and_to_even_here() -> None:
    grid = ImageGrid(14, 2, min_pixels=8 * 784, max_pixels=448 * 448)
    assert size_of_runtime(grid, 70, 238) == (84, 252)
    assert grid.target_size(70, 238) == (56, 224)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_image_on_its_grid_is_left_alone_by_every_kernel(kernel: ResizeKernel) -> None:
    image = blocks(84, 112)
    assert resize(image, 84, 112, kernel) is image


def test_what_llama_cpp_fits_in_is_centred_on_black() -> None:
    white = Image.new("RGB", (100, 50), "white")
    page = np.asarray(fit_on_black(white, 84, 112))
    filled = np.flatnonzero(page.max(axis=(1, 2)))
    assert page.shape == (84, 112, 3)
    assert (filled[0], filled[-1]) == (14, 69)  # 56 rows of 84
    assert page[filled].min() == 255


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [
        ((225, 57), (222, 56), "a276b3ef8e0e"),
        ((500, 300), (100, 290), "f2959b06d013"),
        ((300, 500), (200, 490), "e42b294ac122"),
        ((500, 300), (300, 200), "55b5b24262f4"),
    ],
)
def test_bicubic_gives_the_pixels_of_pillow_11_and_12_under_any_version(
    size: tuple[int, int], target: tuple[int, int], expected: str
) -> None:
    """Digests of `Image.resize` in Pillow 11.3.0 and 12.2.0; in 13.0.0 the first three differ."""
    drawn = np.random.default_rng(5).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(drawn).resize((size[1], size[0]), Image.Resampling.NEAREST)
    resized = np.asarray(resize(image, *target, "bicubic"))
    assert hashlib.sha256(resized.tobytes()).hexdigest()[:12] == expected


def test_a_lot_depends_on_its_own_words_alone() -> None:
    lot, other = KernelLot(KERNELS, 3), KernelLot(KERNELS, 3)
    words = [(f"s{sample}", phase, 0, 0) for sample in range(30) for phase in range(2)]
    drawn = [lot.draw(*each) for each in words]
    assert [other.draw(*each) for each in reversed(words)] == drawn[::-1]
    later = [(sample, phase, 1, image) for sample, phase, _, image in words]
    assert [lot.draw(*each) for each in later] != drawn
    assert [KernelLot(KERNELS, 4).draw(*each) for each in words] != drawn


def test_kernels_are_drawn_about_equally_often() -> None:
    lot = KernelLot(KERNELS, 0)
    counts = Counter(lot.draw(f"sample-{number}", 0, 0, 0) for number in range(3000))
    assert set(counts) == set(KERNELS)
    assert all(900 < count < 1100 for count in counts.values())


def test_without_the_setting_every_image_is_resized_by_bicubic() -> None:
    lot = KernelLot(AugmentSection().resize_kernels, 0)
    assert {lot.draw(f"{number}", 0, 0, 0) for number in range(50)} == {"bicubic"}
    grid = encoder_of("random-qwen2_5_vl").contract.grid
    assert grid.prepare(picture()).tobytes() == grid.prepare(picture(), "bicubic").tobytes()


@pytest.mark.parametrize("kernels", [[], ["bicubic", "bicubic"], ["lanczos"]])
def test_kernels_that_say_nothing_are_refused(kernels: list[str]) -> None:
    with pytest.raises(ValidationError, match="resize_kernels"):
        AugmentSection(resize_kernels=kernels)  # type: ignore[arg-type]
