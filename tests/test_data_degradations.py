"""Pictures made to look scanned: the same for the same seed, legible, no ink lost."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from vlmpipe.config import parse_config
from vlmpipe.data.sources import candidates
from vlmpipe.data.synthetic.degradations import DEGRADATIONS, scan, scanned
from vlmpipe.data.synthetic.pixels import has_tones, ink_margins, to_array, warped
from vlmpipe.drawing.fonts import font
from vlmpipe.encoding.conversation import Message, Sample

BENT = {"crop", "skew", "perspective"}
NAMES = list(DEGRADATIONS)
few = settings(deadline=None, max_examples=12)


def page(width: int = 260, height: int = 180, margin: int = 24) -> Image.Image:
    """Lines of print inside a frame."""
    image = Image.new("RGB", (width, height), (250, 250, 250))
    pen = ImageDraw.Draw(image)
    pen.rectangle((margin, margin, width - margin - 1, height - margin - 1), outline=(20, 20, 20))
    for y in range(margin + 8, height - margin - 22, 24):
        pen.text((margin + 8, y), "Total 4,207.35", fill=(20, 20, 20), font=font("sans", 18))
    return image


def digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


def darkness(image: Image.Image) -> float:
    return float((255 - to_array(image)).sum())


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_every_pixel_and_another_seed_other_ones(name: str) -> None:
    made = [DEGRADATIONS[name](page(), random.Random(seed), 0.7) for seed in (1, 1, 2, 3, 4)]
    assert digest(made[0]) == digest(made[1])
    assert len({digest(image) for image in made}) > 1
    assert all(image.mode == "RGB" for image in made)


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_that_was_given_stays_as_it_was(name: str) -> None:
    image = page()
    before = digest(image)
    assert digest(DEGRADATIONS[name](image, random.Random(3), 1.0)) != before
    assert digest(image) == before


@pytest.mark.parametrize("name", sorted(DEGRADATIONS.keys() - BENT))
@few
@given(seed=st.integers(0, 10_000))
def test_print_stands_out_from_paper_at_a_strength_of_three_tenths(name: str, seed: int) -> None:
    clean = to_array(page())[..., 1]
    worse = to_array(DEGRADATIONS[name](page(), random.Random(seed), 0.3))[..., 1]
    print_, paper = worse[clean < 60], worse[clean > 245]
    assert np.median(paper) - np.median(print_) > 100
    middle = (np.median(paper) + np.median(print_)) / 2
    # The least of 1,500 faxes kept 0.888 of its print, thin strokes being lost between its lines.
    assert (print_ < middle).mean() > 0.87
    assert (paper > middle).mean() > 0.96


@few
@given(
    seed=st.integers(0, 10_000),
    margin=st.integers(1, 40),
    strength=st.floats(0, 1),
)
def test_a_crop_leaves_all_ink_and_some_margin(seed: int, margin: int, strength: float) -> None:
    image = page(margin=margin)
    cut = DEGRADATIONS["crop"](image, random.Random(seed), strength)
    left, top, right, bottom = ink_margins(to_array(cut))
    assert min(left, top, right, bottom) >= min(margin, 4)
    assert cut.width - left - right == image.width - 2 * margin
    assert cut.height - top - bottom == image.height - 2 * margin


@pytest.mark.parametrize("name", ["skew", "perspective"])
@few
@given(seed=st.integers(0, 10_000))
def test_a_bent_page_keeps_its_ink_even_with_hardly_a_margin(name: str, seed: int) -> None:
    # Paper of pure white and a white surrounding: all that is dark is print.
    image = Image.eval(page(margin=1), lambda level: min(255, level + 5))
    bent = DEGRADATIONS[name](image, random.Random(seed), 0.3)
    corner = to_array(bent)[0, 0].tolist()
    if corner == [255, 255, 255]:  # not on the scanner's open lid
        assert darkness(bent) == pytest.approx(darkness(image), rel=0.06)


def test_holes_are_punched_in_the_margin_alone() -> None:
    for seed in range(20):
        for margin in (0, 4, 9, 40):
            clean = page(margin=margin)
            punched = DEGRADATIONS["punch_holes"](clean, random.Random(seed), 1.0)
            inside = (margin, margin, clean.width - margin, clean.height - margin)
            assert digest(punched.crop(inside)) == digest(clean.crop(inside))


def test_bending_without_a_bend_changes_nothing() -> None:
    array = to_array(page())
    height, width = array.shape[:2]
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    assert (warped(array, corners, (width, height), (0, 0, 0)) == array).all()


def test_strength_nothing_gives_the_same_image_back() -> None:
    image = page()
    assert scan(image, random.Random(1), 0.0) is image


@few
@given(
    seed=st.integers(0, 10_000),
    strength=st.floats(0.01, 1),
    sides=st.tuples(st.integers(112, 400), st.integers(112, 400)),
)
def test_a_scan_has_about_the_size_of_its_page(
    seed: int, strength: float, sides: tuple[int, int]
) -> None:
    made = scan(page(*sides, margin=20), random.Random(seed), strength)
    for side, before in zip(made.size, sides, strict=True):
        assert side >= 112
        assert abs(side - before) <= 0.1 * before


@few
@given(seed=st.integers(0, 10_000), strength=st.floats(0.01, 0.3))
def test_print_of_a_scan_up_to_three_tenths_is_dark_on_light(seed: int, strength: float) -> None:
    made = np.asarray(scan(page(), random.Random(seed), strength).convert("L"))
    height, width = made.shape
    inner = made[height // 5 : -height // 5, width // 5 : -width // 5]
    dark, light = np.percentile(inner, (4, 70))
    assert light - dark > 70


@pytest.mark.parametrize("fill", [(220, 30, 30), (170, 170, 170), (225, 225, 225)])
def test_what_tells_areas_apart_is_never_faxed_away(
    fill: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> Image.Image:
        raise AssertionError("a fax has two colours")

    image = page()
    assert not has_tones(to_array(image))
    ImageDraw.Draw(image).ellipse((60, 60, 120, 120), fill=fill)
    assert has_tones(to_array(image))
    monkeypatch.setitem(DEGRADATIONS, "fax", never)
    scan_often(image)
    with pytest.raises(AssertionError, match="two colours"):
        scan_often(page())


def scan_often(image: Image.Image) -> None:
    for seed in range(30):
        scan(image, random.Random(seed), 1.0)


def sample_of(*parts: str | Image.Image) -> Sample:
    return Sample("a", (Message("user", parts), Message("assistant", ("4",))), "table")


def test_a_sample_keeps_its_order_and_its_words() -> None:
    before = sample_of("first", page(), "then", page(300))
    after = scanned(before, 3, 0.5)
    assert [type(part) for part in after.messages[0].parts] == [str, Image.Image, str, Image.Image]
    assert after.messages[0].text == before.messages[0].text
    assert after.reference == "4"
    assert digest(after.images[0]) != digest(before.images[0])
    assert scanned(before, 3, 0.0) is before


def test_one_picture_is_scanned_alike_wherever_it_stands() -> None:
    """Otherwise a repeat would not be found, and could stand on both sides of the split."""
    first, second = (scanned(sample_of(text, page()), 3, 0.5) for text in ("a", "b"))
    assert digest(first.images[0]) == digest(second.images[0])
    other_seed = scanned(sample_of("a", page()), 4, 0.5)
    assert digest(other_seed.images[0]) != digest(first.images[0])


def test_generated_samples_are_scanned_where_the_configuration_says_so() -> None:
    def images(scan: float) -> list[Image.Image]:
        settings_ = {"n": 3, "difficulty": [0.0, 0.2], "scan": scan}
        config = parse_config({"data": {"task": "table", "synthetic": settings_}})
        return [candidate.load().images[0] for candidate in candidates(config)]

    clean, worse, again = images(0.0), images(0.4), images(0.4)
    assert [digest(image) for image in worse] == [digest(image) for image in again]
    assert all(digest(a) != digest(b) for a, b in zip(clean, worse, strict=True))
