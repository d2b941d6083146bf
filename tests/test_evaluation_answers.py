"""Answers of an engine: metrics, loss, and what becomes of them in a file."""

from __future__ import annotations

import json

import pytest

from evaluation_fakes import ColourEngine, colour_sample, system_of, text_sample
from vlmpipe.encoding.conversation import Message
from vlmpipe.evaluation.answers import answer_sample, measured_here, prompt_text, token_mean
from vlmpipe.evaluation.measuring import Measured
from vlmpipe.evaluation.records import Record, read_records

RED = colour_sample("a", "#ff0000", "red")


def ask(engine: ColourEngine, sample=RED, limit: int = 50, measure=measured_here) -> Record:
    system = system_of(max_new_tokens=limit)
    return answer_sample(engine, system, sample, split="heldout", measure=measure)


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


def test_record_keeps_korean_marks_images_and_says_what_answered(tmp_path):
    record = ask(ColourEngine("fake", {"": "빨강"}), colour_sample("가", "#ff0000", "빨강"))
    path = tmp_path / "predictions.jsonl"
    path.write_text(record.as_line(), encoding="utf-8")
    assert list(read_records(path)) == [record]
    assert record.prompt == "<image>Which colour?"
    assert record.prediction == record.reference == "빨강"
    assert (record.engine, record.lora_enabled, record.token_accuracy) == ("hf:adapter", True, 1.0)


def test_answer_whose_measuring_crashed_says_so_and_counts_as_nothing():
    def crash(task: str, prediction: str, reference: str) -> Measured:
        return Measured({"agreement": 0.0}, "measuring it ended the process (SIGSEGV)")

    record = ask(ColourEngine("fake", {"": "red"}), measure=crash)
    assert record.metrics == {"agreement": 0.0}
    assert "SIGSEGV" in record.unmeasured


def test_half_a_character_can_be_written():
    record = ask(ColourEngine("fake", {"": "re\ud83d"}))
    assert record.prediction == "re?"
    assert json.loads(record.as_line())["prediction"] == "re?"


def test_loss_that_is_no_number_is_left_out(monkeypatch):
    monkeypatch.setattr("evaluation_fakes.UNKNOWN_LOSS", float("nan"))
    record = ask(ColourEngine("fake", {"": "blue"}))
    assert record.loss is None
    assert "NaN" not in record.as_line()


def test_prompt_of_several_turns_names_its_roles():
    turns = (Message("system", ("Be brief.",)), Message("user", ("Hi",)))
    assert prompt_text(turns) == "system: Be brief.\nuser: Hi"


def test_token_mean_weighs_long_answers_more():
    assert token_mean([(1.0, 30), (2.0, 10)]) == pytest.approx(1.25)


def test_text_only_sample_has_no_image_mark():
    sample = text_sample("q", "What is git?", "A version control system")
    answer = ask(ColourEngine("fake", {"": "x"}), sample)
    assert answer.prompt == "What is git?"
