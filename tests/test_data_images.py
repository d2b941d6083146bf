"""The image audit: every way in which a picture can be bad, and what good ones become."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_files import SHARED_DATA, picture, png_header
from vlmpipe.data.images import decode_png, encode_png, load_image
from vlmpipe.data.problems import SampleError

LIMIT = 100_000_000


def noise(width: int = 120, height: int = 80) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def problem_with(path: Path, max_pixels: int = LIMIT) -> str:
    with pytest.raises(SampleError) as caught:
        load_image(path, max_pixels)
    return str(caught.value)


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def test_missing_empty_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert problem_with(tmp_path / "gone.png") == "missing"
    assert problem_with(tmp_path / ("long" * 100)) == "missing"
    assert problem_with(tmp_path / "empty.png") == "empty (0 bytes)"
    assert problem_with(tmp_path) == "not a file"
    os.mkfifo(tmp_path / "pipe.png")
    assert problem_with(tmp_path / "pipe.png") == "not a file"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff", "a.bmp"])
def test_truncated_images_are_found_by_decoding_them(
    tmp_path: Path, name: str, share: float
) -> None:
    path = tmp_path / name
    noise().save(path)
    load_image(path, LIMIT)
    assert problem_with(cut(path, share)).startswith(("damaged: ", "not an image"))


def test_damaged_pixels_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise().save(path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    assert problem_with(path).startswith("damaged: ")


def test_a_gigantic_header_is_refused_without_decoding(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    path = png_header(tmp_path / "bomb.png", 60_000, 60_000)
    assert problem_with(path) == "claims 3,600,000,000 pixels, above data.max_image_pixels"
    assert before == Image.MAX_IMAGE_PIXELS


def test_our_own_limit_decides_where_pillow_only_warns(tmp_path: Path) -> None:
    path = png_header(tmp_path / "large.png", 12_000, 10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = problem_with(path)
        allowed = problem_with(path, max_pixels=150_000_000)
    assert found == (
        "claims 12000x10000 = 120,000,000 pixels, above data.max_image_pixels 100,000,000"
    )
    assert allowed.startswith("damaged: ")  # it holds no pixels


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    noise(40, 30).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", 1200).size == (40, 30)
    assert "above data.max_image_pixels 1,199" in problem_with(tmp_path / "a.png", 1199)


def test_a_text_file_with_an_image_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    assert problem_with(tmp_path / "a.png").startswith("not an image of a known format (PNG, JPEG")


def test_formats_that_nobody_asked_for_are_not_opened(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.gif")
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    for name in ("a.gif", "a.eps"):
        assert problem_with(tmp_path / name).startswith("not an image of a known format")


def test_a_right_image_under_a_wrong_name_is_read(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png", format="JPEG")
    assert load_image(tmp_path / "a.png", LIMIT).size == (120, 80)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((1, 50), "a side under 2"),
        ((1000, 1), "a side under 2"),
        ((402, 2), "aspect ratio above 200"),
    ],
)
def test_shapes_that_no_model_takes(tmp_path: Path, size: tuple[int, int], words: str) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    assert words in problem_with(tmp_path / "a.png")


def test_an_aspect_ratio_of_200_is_still_taken(tmp_path: Path) -> None:
    Image.new("RGB", (400, 2)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", LIMIT).size == (400, 2)


def test_several_pages_are_refused_rather_than_dropped(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.tiff", save_all=True, append_images=[noise(), noise()])
    assert problem_with(tmp_path / "a.tiff").startswith("holds 3 pages")


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 30), (200, 0, 0))
    image.paste((0, 0, 255), (0, 0, 30, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    upright = load_image(tmp_path / "a.png", LIMIT)
    assert upright.size == (30, 60)
    assert upright.getpixel((15, 5)) == (0, 0, 255)
    assert upright.getpixel((15, 55)) == (200, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((10, 10, 10, 255), (0, 0, 10, 20))
    image.convert(mode).save(tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png", LIMIT)
    assert loaded.mode == "RGB"
    assert loaded.getpixel((15, 10)) == (255, 255, 255)
    assert max(loaded.getpixel((5, 10))) < 20  # type: ignore[arg-type]


def test_a_colour_declared_transparent_becomes_white(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 20), (1, 2, 3))
    image.paste((200, 0, 0), (0, 0, 10, 20))
    image.save(tmp_path / "a.png", transparency=(1, 2, 3))
    loaded = load_image(tmp_path / "a.png", LIMIT)
    assert loaded.getpixel((15, 10)) == (255, 255, 255)
    assert loaded.getpixel((5, 10)) == (200, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK"])
def test_every_colour_model_becomes_rgb(tmp_path: Path, mode: str) -> None:
    name = "a.tiff" if mode == "CMYK" else "a.png"
    Image.new("RGB", (20, 20), "white").convert(mode).save(tmp_path / name)
    loaded = load_image(tmp_path / name, LIMIT)
    assert (loaded.mode, loaded.getpixel((3, 3))) == ("RGB", (255, 255, 255))


def test_sixteen_bit_scans_keep_their_greys(tmp_path: Path) -> None:
    pixels = np.linspace(0, 65535, 400, dtype=np.uint16).reshape(20, 20)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded = np.asarray(load_image(tmp_path / "a.png", LIMIT))[..., 0]
    assert (loaded == pixels >> 8).all()


def test_pixels_without_a_range_are_refused(tmp_path: Path) -> None:
    Image.new("F", (20, 20), 0.5).save(tmp_path / "a.tiff")
    assert "save it with 8 bits" in problem_with(tmp_path / "a.tiff")


def test_stored_pictures_come_back_pixel_by_pixel(tmp_path: Path) -> None:
    original = load_image(picture(tmp_path / "a.png"), LIMIT)
    again = decode_png(encode_png(original))
    assert (again.mode, again.size) == (original.mode, original.size)
    assert again.tobytes() == original.tobytes()


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared sample data is not here")
@pytest.mark.slow
def test_every_real_image_passes() -> None:
    paths = sorted(SHARED_DATA.glob("*/images/*"))
    assert paths
    assert all(load_image(path, LIMIT).mode == "RGB" for path in paths)
