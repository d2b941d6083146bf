from __future__ import annotations

import io

import pytest
from PIL import Image

from model_folders import contract_of, picture
from vlmpipe.encoding.images import ImageGrid, smart_resize, to_rgb
from vlmpipe.models.families import FAMILIES

SIZES = [(56, 84), (57, 225), (70, 238), (345, 451), (523, 701), (637, 903), (1, 100), (3000, 40)]


def grid(**changes: object) -> ImageGrid:
    settings: dict[str, object] = {
        "patch_size": 14,
        "merge_size": 2,
        "min_pixels": 8 * 28 * 28,
        "max_pixels": 448 * 448,
        **changes,
    }
    return ImageGrid(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("max_size", [None, (448, 448), (168, 280)])
def test_target_sizes_are_on_the_grid_and_within_limits(
    size: tuple[int, int], max_size: tuple[int, int] | None
) -> None:
    rows, columns = grid(max_size=max_size).target_size(*size)
    assert rows % 28 == 0
    assert columns % 28 == 0
    assert rows * columns >= 8 * 28 * 28


@pytest.mark.parametrize("size", [(345, 451), (523, 701), (2000, 500), (100, 90)])
def test_an_image_is_fitted_into_the_box_with_its_aspect_kept(size: tuple[int, int]) -> None:
    rows, columns = grid(max_size=(336, 448)).target_size(*size)
    assert rows <= 336
    assert columns <= 448
    assert abs(rows / columns - size[0] / size[1]) < 0.35 * size[0] / size[1]


@pytest.mark.parametrize("family", [f for f in FAMILIES.values() if f.has_vision])
@pytest.mark.parametrize("size", SIZES)
def test_a_prepared_image_is_left_alone_when_prepared_again(
    family: object, size: tuple[int, int]
) -> None:
    """The fixed point is what keeps a runtime's own resize from doing anything."""
    used = contract_of(family).grid  # type: ignore[arg-type]
    once = used.target_size(*size)
    assert used.target_size(*once) == once
    assert smart_resize(*once, used.factor, used.min_pixels, used.max_pixels) == once


def test_small_images_are_enlarged_to_eight_tokens() -> None:
    assert grid().tokens(56, 84) >= 8
    assert grid(min_pixels=0).tokens(56, 84) == 6


def test_an_absurd_aspect_ratio_is_refused_with_the_ratio() -> None:
    with pytest.raises(ValueError, match="aspect ratio 201"):
        grid().target_size(201, 1)


def test_prepare_resizes_by_pil_bicubic_the_width_first() -> None:
    image = picture(150, 110)
    rows, columns = grid().target_size(110, 150)
    wide = image.resize((columns, 110), Image.Resampling.BICUBIC)
    expected = wide.resize((columns, rows), Image.Resampling.BICUBIC)
    assert grid().prepare(image).tobytes() == expected.tobytes()


def test_an_image_on_its_grid_is_not_touched() -> None:
    image = picture(280, 168)
    assert grid().prepare(image) is not None
    assert grid().prepare(image).tobytes() == image.tobytes()


def test_transparency_becomes_white_as_paper_is() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)


def test_rotation_noted_by_a_camera_is_applied() -> None:
    image = Image.new("RGB", (280, 140), "white")
    exif = image.getexif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    turned = grid().prepare(Image.open(stream))
    assert turned.height > turned.width
