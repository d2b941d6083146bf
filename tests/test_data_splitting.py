"""The split: by content, stable, and never the same image on both sides."""

from __future__ import annotations

import random
import unicodedata

import pytest
from PIL import Image

from vlmpipe.data.splitting import content_keys, heldout_positions
from vlmpipe.encoding.conversation import Message, Part, Sample


def keys(*names: str) -> list[frozenset[str]]:
    """Keys of one sample a word, its letters being its images."""
    return [frozenset(name) for name in names]


def singles(count: int) -> list[frozenset[str]]:
    return [frozenset([f"image-{number}"]) for number in range(count)]


def sample(*parts: Part, answer: str = "x") -> Sample:
    return Sample("s", (Message("user", parts), Message("assistant", (answer,))), "qa")


@pytest.mark.parametrize(
    ("count", "fraction", "held"), [(100, 0.2, 20), (64, 0.2, 13), (10, 0.5, 5)]
)
def test_the_share_is_rounded(count: int, fraction: float, held: int) -> None:
    assert len(heldout_positions(singles(count), fraction, seed=1)) == held


def test_at_least_one_is_held_out_and_at_least_one_group_is_not() -> None:
    assert len(heldout_positions(singles(3), 0.01, seed=1)) == 1
    assert len(heldout_positions(singles(2), 0.99, seed=1)) == 1
    assert len(heldout_positions(singles(30), 0.999, seed=1)) == 29


def test_nothing_is_held_out_at_zero_or_from_one_group() -> None:
    assert heldout_positions(singles(50), 0.0, seed=1) == set()
    assert heldout_positions(keys("a", "ab", "b"), 0.5, seed=1) == set()
    assert heldout_positions([], 0.5, seed=1) == set()


def test_samples_that_share_an_image_stay_together_through_others() -> None:
    rng = random.Random(3)
    for seed in range(40):
        every = [
            frozenset(rng.sample("abcdefghijklmnopqrst", rng.choice((1, 1, 1, 2))))
            for _ in range(15)
        ]
        held = heldout_positions(every, 0.3, seed)
        inside = frozenset().union(*(every[position] for position in held))
        outside = frozenset().union(*(k for place, k in enumerate(every) if place not in held))
        assert not inside & outside
        assert outside


def test_a_large_group_is_left_in_training() -> None:
    every = keys(*["a"] * 8, "b", "c")
    for seed in range(10):
        assert heldout_positions(every, 0.2, seed) == {8, 9}


def test_the_smallest_group_is_taken_where_none_fits() -> None:
    assert heldout_positions(keys("a", "a", "a", "b", "b"), 0.1, seed=0) == {3, 4}


def test_pinned_samples_are_never_held_out_nor_what_they_share_images_with() -> None:
    every = keys("a", "a", "b", "c", "d")
    for seed in range(10):
        held = heldout_positions(every, 0.5, seed, pinned=[0, 4])
        assert held == {2, 3}
    assert heldout_positions(every, 0.5, 0, pinned=range(5)) == set()


def test_the_choice_follows_content_and_seed_and_not_the_order() -> None:
    every = singles(60)
    held = {next(iter(every[place])) for place in heldout_positions(every, 0.2, 7)}
    shuffled = random.Random(0).sample(every, len(every))
    again = {next(iter(shuffled[place])) for place in heldout_positions(shuffled, 0.2, 7)}
    other = {next(iter(every[place])) for place in heldout_positions(every, 0.2, 8)}
    assert held == again
    assert held != other


def test_a_sample_more_moves_few_others() -> None:
    held = heldout_positions(singles(100), 0.2, 7)
    more = heldout_positions(singles(101), 0.2, 7)
    assert len(held ^ more) <= 2


def test_the_key_is_the_picture_and_not_the_question() -> None:
    red, blue = Image.new("RGB", (30, 30), "red"), Image.new("RGB", (30, 30), "blue")
    assert content_keys(sample(red, "a?")) == content_keys(sample("b?", red.copy(), answer="y"))
    assert content_keys(sample(red, "a?")) != content_keys(sample(blue, "a?"))
    assert content_keys(sample(red)) != content_keys(sample(Image.new("RGB", (15, 60), "red")))
    assert content_keys(sample(red, blue)) == content_keys(sample(red)) | content_keys(sample(blue))


def test_the_key_of_a_text_is_its_prompt() -> None:
    decomposed = unicodedata.normalize("NFD", "과적합이란?")
    assert content_keys(sample("과적합이란? ")) == content_keys(sample(decomposed, answer="y"))
    assert content_keys(sample("a?")) != content_keys(sample("b?"))
