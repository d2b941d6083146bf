"""Captions: what they state is counted, drawn in the picture, the same everywhere, safe."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmpipe.encoding.conversation import Sample
from vlmpipe.tasks import TASKS
from vlmpipe.tasks.base import Language
from vlmpipe.tasks.caption.facts import KINDS, fact_f1, facts_in
from vlmpipe.tasks.caption.scenes import FigureScene, Ring, RingScene, random_scene
from vlmpipe.tasks.caption.wording import caption
from vlmpipe.tasks.chart.flow_synthetic import FlowPlan
from vlmpipe.tasks.chart.model import AxisChart, Edge, Flowchart, Node, PieChart

CAPTION = TASKS["caption"]
LEVELS = {"easy": (0.0, 0.15), "medium": (0.3, 0.6), "hard": (0.65, 0.9)}
BARS = AxisChart("bar", ("north", "south"), (22.0, 40.0), "Sales")
FLOW = FlowPlan(
    Flowchart("TD", (Node("diamond", "Ready?"), Node("box", "Send")), (Edge(0, 1, "yes"),)),
    ((0, 0), (1, 0)),
)
DIGEST_PROGRAM = """
import hashlib
from vlmpipe.tasks import TASKS
samples = [TASKS["caption"].generate(i, 3, (0.0, 0.9)) for i in range(12)]
data = b"".join(s.images[0].tobytes() + s.reference.encode() for s in samples)
print(hashlib.sha256(data).hexdigest())
"""


def samples(level: str, count: int = 20) -> list[Sample]:
    return [CAPTION.generate(index, 11, LEVELS[level]) for index in range(count)]


def test_what_is_said_of_a_chart() -> None:
    assert caption(BARS, "en", 1) == (
        'A bar chart titled "Sales" with 2 bars: "north", "south". The largest is "south" (40).'
    )
    assert caption(BARS, "ko", 3) == (
        '제목이 "Sales"인 막대그래프. 막대 2개: "north" (22), "south" (40).'
        ' 가장 큰 것은 "south" (40). 가장 작은 것은 "north" (22).'
    )
    tied = PieChart((("a", 50.0), ("b", 50.0)))
    assert caption(tied, "en", 2) == 'A pie chart with 2 slices: "a", "b".'


def test_what_is_said_of_other_pictures() -> None:
    assert caption(FLOW, "en", 3) == (
        'A flowchart with 1 box, 1 decision and 1 arrow, starting at "Ready?".'
        ' "Ready?" leads to "Send" ("yes").'
    )
    figure = FigureScene((("circle", "A"), ("square", "B"), ("circle", "C")))
    assert caption(figure, "ko", 0) == (
        '도형 그림. 원 2개, 정사각형 1개: 원 "A", 정사각형 "B", 원 "C".'
    )
    rings = RingScene((Ring(6, 3, ("OH",)), Ring(5, 0, ())))
    assert caption(rings, "en", 1) == (
        'A ring structure with 2 rings, 11 atoms, 3 double bonds and 1 group: "OH".'
    )


@pytest.mark.parametrize("scene", [BARS, FLOW, FigureScene((("circle", "A"), ("square", "B")))])
def test_both_languages_state_the_same_facts(scene: AxisChart | FlowPlan | FigureScene) -> None:
    for detail in range(4):
        assert facts_in(caption(scene, "en", detail)) == facts_in(caption(scene, "ko", detail))


def test_facts_of_a_sentence() -> None:
    assert set(facts_in('A bar chart titled "Sales" with 2 bars. The largest is "a" (4.50).')) == {
        "bar chart",
        ("name", "title", "Sales"),
        ("label", "Sales"),
        ("label", "a"),
        ("count", "bar", "2"),
        ("name", "largest", "a"),
        ("value", "a", "4.5"),
    }


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("bar chart", "pie chart"),
        ("2 bars", "3 bars"),
        ("(40)", "(41)"),
        ('"north", "south"', '"north", "west"'),
        ('largest is "south"', 'largest is "north"'),
        ('titled "Sales"', 'titled "Salt"'),
    ],
)
def test_every_wrong_fact_costs(right: str, wrong: str) -> None:
    truth = caption(BARS, "en", 1)
    assert right in truth
    assert 0.0 < fact_f1(truth.replace(right, wrong), truth) < 1.0


def test_counts_and_names_do_not_count_when_they_belong_to_others() -> None:
    truth = '2 circles and 3 squares: circle "A"'
    assert fact_f1('3 circles and 2 squares: circle "A"', truth) < 1.0
    assert fact_f1('2 circles and 3 squares: square "A"', truth) < 1.0
    assert fact_f1('"A" leads to "B"', '"B" leads to "A"') < 1.0


def test_a_text_without_facts_is_compared_by_its_words() -> None:
    assert fact_f1("a grey cat", "a grey cat") == 1.0
    assert fact_f1("a grey dog", "a grey cat") == pytest.approx(2 / 3)
    assert fact_f1("", "") == 1.0


@given(
    st.integers(0, 10**6), st.sampled_from(sorted(KINDS)), st.sampled_from(["en", "ko"]),
    st.floats(0, 1), st.integers(0, 3),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_any_scene_is_described_by_its_kind(
    seed: int, kind: str, language: Language, difficulty: float, detail: int
) -> None:
    text = caption(random_scene(random.Random(seed), kind, language, difficulty), language, detail)
    facts = facts_in(text)
    assert kind in facts
    assert not [fact for fact in facts if isinstance(fact, tuple) and fact[0] == "number"]
    assert CAPTION.measure(text, text)["facts"] == 1.0
    assert CAPTION.canonical(text) == text


@pytest.mark.parametrize("level", LEVELS)
def test_samples_are_as_hard_as_asked_and_drawn_within_their_picture(level: str) -> None:
    low, high = LEVELS[level]
    for sample in samples(level):
        assert low <= sample.difficulty <= high
        assert sample.difficulty == CAPTION.difficulty(sample.reference)
        pixels = np.asarray(sample.images[0])
        rim = np.concatenate([pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3)])
        sides = np.concatenate([pixels[:, :3].reshape(-1, 3), pixels[:, -3:].reshape(-1, 3)])
        assert (rim == pixels[0, 0]).all()
        assert (sides == pixels[0, 0]).all()
        assert (pixels != pixels[0, 0]).any()
        assert min(sample.images[0].size) >= 112


def test_easy_pictures_are_small_and_easy_texts_short() -> None:
    for sample in samples("easy", 60):
        width, height = sample.images[0].size
        assert width <= 448
        assert height <= 336
        assert len(sample.reference) <= 110


def test_every_kind_is_drawn_and_asked_for_in_its_language() -> None:
    made = samples("easy", 60)
    assert {kind for sample in made for kind in facts_in(sample.reference) if kind in KINDS} == (
        set(KINDS)
    )
    for sample in made:
        language: Language = "ko" if re.search("[가-힣]", sample.reference) else "en"
        assert sample.messages[0].text == CAPTION.instructions[language]


def test_another_process_draws_the_same_pixels() -> None:
    made = [CAPTION.generate(index, 3, (0.0, 0.9)) for index in range(12)]
    data = b"".join(s.images[0].tobytes() + s.reference.encode() for s in made)
    told = subprocess.run(
        [sys.executable, "-c", DIGEST_PROGRAM], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == hashlib.sha256(data).hexdigest()


def test_more_said_is_harder() -> None:
    by_detail = [CAPTION.difficulty(caption(BARS, "en", detail)) for detail in range(4)]
    assert by_detail == sorted(set(by_detail))
    figures = [FigureScene((("circle", "A"),) * count) for count in (2, 4, 8, 16)]
    by_count = [CAPTION.difficulty(caption(figure, "ko", 0)) for figure in figures]
    assert by_count == sorted(set(by_count))


def test_long_runs_of_blanks_are_read_like_one() -> None:
    assert facts_in("2" + " " * 19_000 + "bars") == facts_in("2 bars")
    assert facts_in("bars" + " " * 19_000 + 'x "a"') == facts_in('bars x "a"')


@given(st.text(max_size=300))
@settings(deadline=None, max_examples=25)
def test_garbage_is_scored_and_shown_as_text(text: str) -> None:
    assert 0.0 <= CAPTION.measure(text, caption(BARS, "en", 1))["facts"] < 1.0
    assert CAPTION.render(f"<script>{text}") is not None
    assert "<script" not in (CAPTION.render(f"<script>{text}") or "")
