"""Forgetting: what counts, how much is allowed, and what the probe consists of."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest

from data_files import picture, turns, write_lines
from evaluation_fakes import ColourEngine, text_sample
from vlmpipe.config import parse_config
from vlmpipe.config.validate import ValidateConfig
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.engines.base import Score
from vlmpipe.errors import BadSamplesError, ConfigError
from vlmpipe.evaluation.validation import rules
from vlmpipe.evaluation.validation.forgetting import Forgetting, measure_forgetting
from vlmpipe.evaluation.validation.general_probe import (
    READING,
    REQUEST,
    general_probe,
    general_samples,
    reading_sample,
    request_sample,
)
from vlmpipe.evaluation.validation.rules import RuleVerdict
from vlmpipe.stages.s3_validate import VALIDATE

VOCABULARY = 1000


class LossEngine(ColourEngine):
    """Scores a reference by what is written in the losses of its model."""

    def __init__(self, name: str, losses: dict[str, float]) -> None:
        super().__init__(name, {})
        self.losses = losses

    def score(self, messages: Sequence[Message], answer: str) -> Score:
        return Score(loss=self.losses[messages[-1].text], tokens=len(answer), accuracy=0.5)


def forgotten(base: list[float], tuned: list[float], kinds: str | None = None) -> Forgetting:
    """The probe's losses before and after; `kinds` has a letter for each sample."""
    names = kinds or "a" * len(base)
    samples = [
        Sample(f"{n}", text_sample("", f"q{n}", "abcd").messages, task=kind)
        for n, kind in enumerate(names)
    ]
    engines = {
        "base": LossEngine("base", {f"q{n}": loss for n, loss in enumerate(base)}),
        "tuned": LossEngine("tuned", {f"q{n}": loss for n, loss in enumerate(tuned)}),
    }
    found = measure_forgetting(engines, samples, VOCABULARY)
    assert found is not None
    return found


def verdict(found: Forgetting, most: float | None) -> RuleVerdict:
    [each] = rules.forgetting(found, most)
    return each


def test_change_is_the_mean_of_the_samples_changes():
    found = forgotten([1.0, 2.0, 1.0], [1.5, 2.5, 2.5])
    assert found.change.difference == pytest.approx((0.5 + 0.5 + 1.5) / 3)
    metrics = found.figures().metrics
    assert metrics["general/loss/base"] == pytest.approx(4 / 3)
    assert metrics["general/perplexity/tuned"] == pytest.approx(math.exp(6.5 / 3))
    assert metrics["general/token_accuracy/base"] == 0.5
    assert metrics["general/loss_change/tuned"] == found.change.difference


def test_more_than_allowed_is_refused_with_both_values():
    found = verdict(forgotten([1.0] * 6, [2.4, 2.5, 2.6, 2.5, 2.4, 2.6]), most=1.0)
    assert found.passed is False
    assert "changed by +1.500 nats a token (95 % interval +1" in found.sentence
    assert "above validate.max_forgetting 1" in found.sentence
    assert "not told apart" not in found.sentence


def test_a_change_that_few_samples_do_not_settle_is_refused_and_says_so():
    found = verdict(forgotten([1.0, 1.0], [1.1, 3.2]), most=1.0)
    assert found.passed is False
    assert "not told apart from chance" in found.sentence


def test_less_than_allowed_passes_and_so_does_gaining():
    assert verdict(forgotten([1.0, 1.0], [1.1, 1.2]), most=0.5).passed is True
    assert verdict(forgotten([1.0, 1.0], [0.5, 0.4]), most=0.0).passed is True


def test_unset_it_is_told_and_not_judged():
    found = verdict(forgotten([1.0, 1.0], [5.0, 6.0]), most=None)
    assert found.passed is None
    assert "+4.500" in found.sentence


def test_what_the_base_never_knew_cannot_be_forgotten():
    """Half of ln(1000) is 3.45 nats: kind b is beyond it, and its losses do not count."""
    found = forgotten([1.0, 3.6, 1.0, 3.6], [1.5, 12.0, 1.5, 12.0], kinds="abab")
    assert [(kind.name, kind.known) for kind in found.kinds] == [("a", True), ("b", False)]
    assert found.change.difference == pytest.approx(0.5)
    assert found.change.samples == 2


def test_a_base_that_knows_nothing_is_not_judged():
    found = verdict(forgotten([6.9, 7.5], [12.0, 13.0]), most=0.0)
    assert found.passed is None
    assert "does not know the general probe (7.20 nats a token, guessing costs 6.91)" in (
        found.sentence
    )
    assert "validate.general.path" in found.sentence


def test_no_samples_leave_no_verdict():
    assert measure_forgetting({}, [], VOCABULARY) is None
    assert list(rules.forgetting(None, 1.0)) == []


def test_probe_is_the_same_each_time_and_leaves_out_what_is_trained():
    first = general_samples(24, {"table", "qa"}, has_vision=True)
    again = general_samples(24, {"table", "qa"}, has_vision=True)
    assert [sample.id for sample in first] == [sample.id for sample in again]
    assert [s.images[0].tobytes() for s in first if s.images] == [
        s.images[0].tobytes() for s in again if s.images
    ]
    kinds = {sample.task for sample in first}
    assert kinds == {READING, REQUEST, "chart", "molecule", "caption", "document"}
    assert len({sample.id for sample in first}) == 24


def test_a_model_without_vision_is_given_text_alone():
    for trained in (set(), {"qa"}):
        samples = general_samples(9, trained, has_vision=False)
        assert len(samples) == 9
        assert not any(sample.images for sample in samples)
        assert {sample.task for sample in samples} == {REQUEST, "qa"} - trained


def test_reading_sample_shows_its_lines_and_request_s_answer_is_right():
    page = reading_sample(0)
    assert 2 <= page.reference.count("\n") + 1 <= 3
    assert page.images[0].height > 60
    assert page.images[0].convert("L").getextrema() == (0, 255)
    sums = [s for s in map(request_sample, range(40)) if s.prompt[0].text.startswith("What is")]
    assert sums
    for sample in sums:
        a, b = (int(word.strip("?.")) for word in sample.prompt[0].text.split()[2:5:2])
        assert sample.reference == str(a + b)


def test_a_file_of_one_s_own_is_taken_instead_and_is_part_of_the_fingerprint(tmp_path):
    path = write_lines(
        tmp_path / "general.jsonl",
        {"id": "a", "messages": turns(answer="one")},
        {"id": "b", "messages": turns(answer="two"), "task": "qa"},
        {"id": "c", "messages": turns(answer="three")},
    )
    config = parse_config({"validate": {"general": {"path": str(path), "samples": 2}}})
    samples = general_probe(config, set(), has_vision=True)
    assert [(s.id, s.task, s.reference) for s in samples] == [
        ("a", "general", "one"),
        ("b", "qa", "two"),
    ]
    assert VALIDATE.external(config) == {"validate.general.path general.jsonl": path}
    assert VALIDATE.external(parse_config({})) == {}


def test_a_file_that_cannot_be_used_says_so(tmp_path):
    def asked(path) -> list[Sample]:
        config = parse_config({"validate": {"general": {"path": str(path)}}})
        return general_probe(config, set(), has_vision=False)

    with pytest.raises(ConfigError, match=r"validate\.general\.path .*none.jsonl is no file"):
        asked(tmp_path / "none.jsonl")
    with pytest.raises(BadSamplesError):
        asked(write_lines(tmp_path / "bad.jsonl", '{"messages": 1}'))
    picture(tmp_path / "a.png")
    seen = write_lines(tmp_path / "seen.jsonl", json.dumps({"messages": turns("a.png")}))
    with pytest.raises(ConfigError, match="reads text only"):
        asked(seen)


def test_none_are_asked_where_none_are_wanted():
    config = parse_config({"validate": {"general": {"samples": 0}}})
    assert general_probe(config, set(), has_vision=True) == []
    assert ValidateConfig(max_forgetting=None).max_forgetting is None
