"""Answers of an engine: metrics, loss, speed, and what becomes of them in a file."""

from __future__ import annotations

import json

import pytest

from evaluation_fakes import ColourEngine, colour_sample, text_sample
from vlmpipe.encoding.conversation import Message
from vlmpipe.evaluation.answers import (
    answer_sample,
    prompt_text,
    token_mean,
    tokens_per_second,
)
from vlmpipe.tasks import task_of

RED = colour_sample("a", "#ff0000", "red")


def ask(engine: ColourEngine, sample=RED, limit: int = 50):
    return answer_sample(
        engine, sample, task_of("qa"), split="heldout", model="tuned", max_new_tokens=limit
    )


def test_right_answer_is_measured_and_scored():
    answer = ask(ColourEngine("fake", {"#ff0000": "red"}))
    assert answer.metrics["exact_match"] == 1.0
    assert answer.metrics["cer"] == 0.0
    assert answer.loss == 0.25
    assert not answer.cut


def test_wrong_answer_is_measured_by_character():
    answer = ask(ColourEngine("fake", {"#ff0000": "rod"}))
    assert answer.metrics["exact_match"] == 0.0
    assert answer.metrics["cer"] == pytest.approx(1 / 3)


def test_answer_stopped_by_the_limit_counts_as_cut():
    answer = ask(ColourEngine("fake", {"": "red and more"}), limit=3)
    assert answer.cut
    assert answer.prediction == "red"


def test_row_is_plain_json_that_keeps_korean_and_marks_images():
    sample = colour_sample("가", "#ff0000", "빨강")
    row = ask(ColourEngine("fake", {"": "빨강"}), sample).as_row()
    assert json.loads(json.dumps(row)) == row
    assert row["prompt"] == "<image>Which colour?"
    assert row["prediction"] == row["reference"] == "빨강"


def test_prompt_of_several_turns_names_its_roles():
    turns = (Message("system", ("Be brief.",)), Message("user", ("Hi",)))
    assert prompt_text(turns) == "system: Be brief.\nuser: Hi"


def test_speed_counts_tokens_after_the_first_only():
    answers = [ask(ColourEngine("fake", {"": "red"})), ask(ColourEngine("fake", {"": "orange"}))]
    assert tokens_per_second(answers) == pytest.approx(10.0)


def test_one_token_answers_have_no_generation_speed():
    assert tokens_per_second([ask(ColourEngine("fake", {"": "r"}))]) == 0.0


def test_token_mean_weighs_long_answers_more():
    assert token_mean([(1.0, 30), (2.0, 10)]) == pytest.approx(1.25)


def test_text_only_sample_has_no_image_mark():
    sample = text_sample("q", "What is git?", "A version control system")
    answer = ask(ColourEngine("fake", {"": "x"}), sample)
    assert answer.prompt == "What is git?"
