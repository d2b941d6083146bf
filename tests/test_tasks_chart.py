"""The chart generator: the same everywhere, drawn within its picture, as hard as asked."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmpipe.drawing import fonts
from vlmpipe.encoding.conversation import Sample
from vlmpipe.errors import StageError
from vlmpipe.tasks import TASKS
from vlmpipe.tasks.chart.drawing import drawing_of, random_style
from vlmpipe.tasks.chart.drawing.axes import AxisDrawing
from vlmpipe.tasks.chart.drawing.flow import FlowDrawing
from vlmpipe.tasks.chart.flow_synthetic import random_flow
from vlmpipe.tasks.chart.model import AxisChart, Flowchart, PieChart
from vlmpipe.tasks.chart.parser import parse_chart
from vlmpipe.tasks.chart.scale import ticks
from vlmpipe.tasks.chart.task import chart_in, parts_of, random_subject

CHART = TASKS["chart"]
LEVELS = {"easy": (0.0, 0.15), "medium": (0.3, 0.6), "hard": (0.75, 1.0)}
DIGEST_PROGRAM = """
import hashlib
from vlmpipe.tasks import TASKS
samples = [TASKS["chart"].generate(i, 3, (0.0, 1.0)) for i in range(8)]
data = b"".join(s.images[0].tobytes() + s.reference.encode() for s in samples)
print(hashlib.sha256(data).hexdigest())
"""


def samples(level: str, count: int = 16) -> list[Sample]:
    return [CHART.generate(index, 11, LEVELS[level]) for index in range(count)]


def test_targets_are_the_same_on_every_machine() -> None:
    targets = "\n".join(CHART.generate(index, 42, (0.0, 1.0)).reference for index in range(20))
    assert hashlib.sha256(targets.encode()).hexdigest() == (
        "58f80a12daaab57078190d85eecdbf8c7808127945e01dbf579025755ee779bf"
    )


def test_another_process_draws_the_same_pixels() -> None:
    made = [CHART.generate(index, 3, (0.0, 1.0)) for index in range(8)]
    data = b"".join(s.images[0].tobytes() + s.reference.encode() for s in made)
    told = subprocess.run(
        [sys.executable, "-c", DIGEST_PROGRAM], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("level", LEVELS)
def test_measured_difficulty_lies_in_the_range_asked_for(level: str) -> None:
    low, high = LEVELS[level]
    for sample in samples(level):
        assert low <= sample.difficulty <= high
        assert sample.difficulty == CHART.difficulty(sample.reference)


@pytest.mark.parametrize("level", LEVELS)
def test_a_target_is_canonical_rendered_and_scores_one(level: str) -> None:
    for sample in samples(level):
        scores = CHART.measure(sample.reference, sample.reference)
        assert CHART.canonical(sample.reference) == sample.reference
        assert CHART.render(sample.reference)
        assert scores[CHART.primary_metric] == 1.0
        assert (scores["chart_type"], scores["well_formed"], scores["cer"]) == (1.0, 1.0, 0.0)


def test_all_kinds_and_both_languages_are_drawn() -> None:
    made = samples("medium", 40)
    assert {parse_chart(sample.reference).kind for sample in made} == {
        "bar",
        "line",
        "pie",
        "flowchart",
    }
    for sample in made:
        if re.search("[가-힣]", sample.reference):
            assert sample.messages[0].text == CHART.instructions["ko"]
    english = [CHART.generate(index, 1, (0.0, 1.0), ["en"]) for index in range(12)]
    assert all(sample.reference.isascii() for sample in english)


def test_easy_charts_are_small_with_few_parts_in_whole_numbers() -> None:
    for sample in samples("easy", 60):
        width, height = sample.images[0].size
        assert width <= 448
        assert height <= 336
        chart = parse_chart(sample.reference)
        assert all(" " not in text for text in chart.texts)
        assert len(_parts(chart)) in (2, 3)
        assert "." not in sample.reference


def _parts(chart: AxisChart | PieChart | Flowchart) -> tuple[object, ...]:
    if isinstance(chart, AxisChart):
        return chart.values
    return chart.slices if isinstance(chart, PieChart) else chart.nodes


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_drawn_at_the_edge_of_the_picture(level: str) -> None:
    for sample in samples(level):
        pixels = np.asarray(sample.images[0])
        paper = pixels[0, 0]
        rim = np.concatenate([pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3)])
        sides = np.concatenate([pixels[:, :3].reshape(-1, 3), pixels[:, -3:].reshape(-1, 3)])
        assert (rim == paper).all()
        assert (sides == paper).all()
        assert (pixels != paper).any()
        assert min(sample.images[0].size) >= 112


@given(st.integers(0, 10**6), st.floats(0, 1))
@settings(deadline=None, max_examples=25)
def test_easy_print_is_large_and_axes_mark_their_ends(seed: int, difficulty: float) -> None:
    rng = random.Random(seed)
    subject = random_subject(rng, "en", (difficulty, difficulty))
    chart = chart_in(subject)
    style = random_style(rng, chart.texts, parts_of(chart), difficulty)
    drawing = drawing_of(subject, style)
    assert drawing.style.size >= (15 if difficulty <= 0.15 else 13)
    if isinstance(chart, AxisChart):
        assert chart.y_axis.bounds is not None
        low, high = chart.y_axis.bounds
        assert {low, high} <= set(ticks(low, high))
        assert all(low <= value <= high for value in chart.values)


@given(st.integers(0, 10**6), st.floats(0, 1))
@settings(deadline=None, max_examples=25)
def test_nodes_stand_apart_and_no_arrow_runs_through_one(seed: int, difficulty: float) -> None:
    rng = random.Random(seed)
    plan = random_flow(rng, "en", difficulty)
    drawing = FlowDrawing(plan, random_style(rng, plan.chart.texts, 2, difficulty))
    boxes = [drawing.box(place) for place in range(len(plan.spots))]
    covered = np.zeros([round(side) + 1 for side in drawing.size], dtype=int)
    for left, top, right, bottom in (map(round, box) for box in boxes):
        covered[left:right, top:bottom] += 1
    assert covered.max() == 1
    for edge in plan.chart.edges:
        for (x1, y1), (x2, y2) in pairwise(drawing.path(edge)):
            assert x1 == x2 or y1 == y2
            run = covered[
                round(min(x1, x2)) + 2 : round(max(x1, x2)) - 1 if x1 != x2 else round(x1) + 3,
                round(min(y1, y2)) + 2 : round(max(y1, y2)) - 1 if y1 != y2 else round(y1) + 3,
            ]
            assert not run.any()


def test_print_shrinks_until_the_picture_fits_but_stays_legible() -> None:
    chart = AxisChart("bar", ("electricity", "hydropower", "geothermal"), (1.0, 2.0, 3.0))
    style = random_style(random.Random(0), chart.texts, 2, 0.1)
    style = dataclasses.replace(style, face="sans-bold", size=26)
    drawing = drawing_of(chart, style)
    assert drawing.size[0] <= style.limit[0] < AxisDrawing(chart, style).size[0]
    narrow = dataclasses.replace(style, limit=(112, 112))
    assert drawing_of(chart, narrow).style.size == 15


def test_a_style_has_only_faces_that_can_print_the_texts() -> None:
    for seed in range(20):
        style = random_style(random.Random(seed), ["한글"], 2, 0.5)
        assert not fonts.faces()[style.face].lacks("한글 0123456789")
    with pytest.raises(StageError, match="no shipped print font"):
        random_style(random.Random(0), ["\u0e01"], 2, 0.5)


def test_values_are_taken_as_printed_only_on_easy_charts_and_pies() -> None:
    easy = 'xychart-beta\nx-axis ["a", "b"]\ny-axis 0 --> 500\nbar [400, 200]'
    names = ", ".join(f'"category {number}"' for number in range(20))
    hard = f"xychart-beta\nx-axis [{names}]\nbar [{', '.join(['400'] * 20)}]"
    assert CHART.measure(easy.replace("400", "401"), easy)["chart_f1"] < 1.0
    assert CHART.measure(hard.replace("400", "401"), hard)["chart_f1"] == 1.0
    pie = 'pie\n"a" : 400\n"b" : 100'
    assert CHART.measure(pie.replace("400", "401"), pie)["chart_f1"] < 1.0


def test_what_is_no_chart_has_no_form_and_is_hard_by_its_length() -> None:
    assert CHART.canonical("no chart") is None
    assert CHART.render("no chart") is None
    assert CHART.difficulty("x" * 100) < CHART.difficulty("x" * 1000) < 1.0
    assert CHART.measure("a", "b")["chart_f1"] == 0.0
