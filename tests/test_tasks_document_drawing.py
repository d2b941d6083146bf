"""Drawn forms: everything in its place, legible, true to the answer, the same everywhere."""

from __future__ import annotations

import hashlib
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmpipe.tasks import LANGUAGES, Language
from vlmpipe.tasks.document import DocumentTask
from vlmpipe.tasks.document.claim import Claim
from vlmpipe.tasks.document.composing import compose
from vlmpipe.tasks.document.page import Box, Page, placed
from vlmpipe.tasks.document.painting import paint
from vlmpipe.tasks.document.style import EASY_WIDTH, PAGE
from vlmpipe.tasks.document.synthetic import FORMS, random_claim

DOCUMENT = DocumentTask()
few = settings(deadline=None, max_examples=20)
seeds, levels, languages = st.integers(0, 10**9), st.floats(0, 1), st.sampled_from(LANGUAGES)


def form(seed: int, asked: float, language: Language) -> tuple[Claim, Page]:
    rng = random.Random(seed)
    claim = random_claim(rng, rng.choice(FORMS), asked, language)
    return claim, compose(rng, claim, language, DOCUMENT.difficulty(claim.json_line()))


def within(inner: Box, outer: Box) -> bool:
    return (
        inner[0] >= outer[0]
        and inner[1] >= outer[1]
        and inner[2] <= outer[2]
        and inner[3] <= outer[3]
    )


def apart(one: Box, other: Box) -> bool:
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@few
@given(seeds, levels, languages)
def test_every_text_stays_in_its_box_and_every_box_on_the_page(
    seed: int, asked: float, language: Language
) -> None:
    _, page = form(seed, asked, language)
    whole = (0, 0, page.size[0] - 1, page.size[1] - 1)
    for text in page.texts:
        assert within(text.extent, text.box), text
        assert within(text.box, whole), text
    assert all(within(frame.box, whole) for frame in page.frames)
    points = [point for stroke in page.strokes for point in stroke.points]
    assert all(within((*point, *point), whole) for point in points)
    for seal in page.seals:
        (x, y), (across, down) = seal.centre, seal.radii
        assert within((x - across, y - down, x + across, y + down), whole)


@few
@given(seeds, levels, languages)
def test_texts_do_not_run_into_each_other(seed: int, asked: float, language: Language) -> None:
    _, page = form(seed, asked, language)
    places = [(text.box, text.extent) for text in page.texts]
    for (box, one), (other_box, other) in itertools.combinations(places, 2):
        assert box == other_box or apart(one, other), (one, other)


@few
@given(seeds, levels, languages)
def test_what_the_answer_says_stands_on_the_form(
    seed: int, asked: float, language: Language
) -> None:
    claim, page = form(seed, asked, language)
    shown = "".join(text.text for text in page.texts).replace(" ", "")
    for name in ("patient_name", "hospital", "diagnosis_code", "account_number", "member_id"):
        value = getattr(claim, name)
        assert value is None or value.replace(" ", "") in shown
    for amount in (claim.total_amount, *(item.amount for item in claim.items or [])):
        assert amount is None or f"{amount:,}" in shown


@pytest.mark.parametrize("language", LANGUAGES)
def test_easy_forms_are_small_and_in_large_print(language: Language) -> None:
    for index in range(30):
        page = form(index, 0.1, language)[1]
        assert page.size[0] <= EASY_WIDTH
        assert page.size[1] <= 336
        assert all(text.size >= 15 for text in page.texts)
        assert page.seals == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_hard_forms_are_whole_pages_with_a_long_list(language: Language) -> None:
    for index in range(10):
        claim, page = form(index, 1.0, language)
        assert page.size == PAGE
        assert len(claim.items or []) >= 11
        assert page.seals
        assert all(text.size >= 11 for text in page.texts)


def test_a_seal_lets_what_it_covers_show_through() -> None:
    page = next(page for seed in range(40) if (page := form(seed, 0.6, "ko")[1]).seals)
    sealed = paint(page)
    page.seals.clear()
    bare = paint(page)
    pairs = zip(sealed.tobytes(), bare.tobytes(), strict=True)
    assert sealed != bare
    assert all(after <= before for after, before in pairs)


def test_every_form_comes_at_every_level() -> None:
    for low in (0.0, 0.45, 0.9):
        targets = [DOCUMENT.generate(index, 1, (low, low + 0.1)).reference for index in range(24)]
        assert {form for form in FORMS for target in targets if form in target} == set(FORMS)


def test_targets_are_the_same_on_every_machine() -> None:
    targets = "\n".join(DOCUMENT.generate(index, 42, (0.0, 1.0)).reference for index in range(12))
    assert hashlib.sha256(targets.encode()).hexdigest() == (
        "8e18cd09a5a126af79699e2752eb0695381c095c6b783282e2ecd75fa04bb792"
    )


@pytest.mark.parametrize("align", ["l", "m", "r"])
def test_a_text_too_wide_for_its_box_is_set_smaller(align: str) -> None:
    box = (40, 10, 160, 40)
    text = placed("Westgate Medical Center", "script", 24, (0, 0, 0), box, align=align)
    assert text.size < 24
    assert within(text.extent, box)
