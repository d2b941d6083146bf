"""A few samples learned by heart by real tiny models, and what is said where that fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_folders import encoder_of, table_sample
from training_runs import base_of, tiny_config
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training.lab import opening
from vlmpipe.training.lab.lr_find import LrFind, Ramp, find_learning_rate
from vlmpipe.training.lab.overfit import Heart, Overfit, Recital, by_heart, overfit
from vlmpipe.training.lab.samples import contradictions, mask_faults, spread
from vlmpipe.training.preparation import TrainingData

NAME = "random-qwen2_5_vl"
SETTINGS: dict[str, Any] = {
    "method": "lora",
    "batch_size": 4,
    "gradient_accumulation": 1,
    "learning_rate": 5e-3,
    "lora": {"r": 16, "alpha": 32, "dropout": 0.1},
    "curriculum": [{"name": "small", "max_size": [112, 112]}],
}


def short(seed: int, answer: str | None = None) -> Sample:
    """A picture and a word or two about it."""
    sample = table_sample(seed)
    answer = answer or f"{seed:03d}"
    return replace(sample, messages=(sample.messages[0], Message("assistant", (answer,))))


def data_of(samples: Sequence[Sample]) -> TrainingData:
    return TrainingData(list(samples), (), [1.0] * len(samples))


def learned(folder: Path, samples: Sequence[Sample], steps: int = 60, **train: Any) -> Overfit:
    config = tiny_config(**{**SETTINGS, **train})
    asked = Heart(samples=2, steps=steps, limit=0.05)
    return overfit(config, base_of(NAME), data_of(samples), asked, folder, SilentReporter())


@pytest.mark.slow
def test_two_samples_are_learned_by_heart_and_it_stops_there(tmp_path: Path) -> None:
    found = learned(tmp_path, [short(0), short(1)])
    assert found.passed, found.as_json()
    assert found.loss <= 0.05 < found.loss_before
    assert [each.answer for each in found.recitals] == ["000", "001"]
    assert len(found.steps) < 60
    assert found.findings == ()
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    told = json.loads((tmp_path / "result.json").read_bytes())
    assert told["passed"] is True
    assert (told["samples"], told["available"]) == (2, 2)


@pytest.mark.slow
def test_contradicting_samples_are_found(tmp_path: Path) -> None:
    found = learned(tmp_path, [short(0, "yes"), short(0, "no")], steps=25)
    assert not found.passed
    (cause, *_) = found.findings
    assert cause.cause == "samples contradict each other"
    assert "'yes'" in cause.evidence
    assert "'no'" in cause.evidence


@pytest.mark.slow
def test_images_that_do_not_reach_the_model_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = opening.load_trainable

    def blind(*args: Any) -> Any:
        model, census = loaded(*args)
        tower = next(m for name, m in model.named_modules() if name.endswith("visual.merger"))
        tower.register_forward_hook(lambda module, inputs, output: output * 0)
        return model, census

    monkeypatch.setattr(opening, "load_trainable", blind)
    found = learned(tmp_path, [short(0), short(1)], steps=40)
    assert not found.passed
    assert found.findings[0].cause == "the images are not seen"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "cause"),
    [(1e-8, "the learning rate is too low"), (0.1, "the learning rate is too high")],
)
def test_a_wrong_learning_rate_is_told(rate: float, cause: str, tmp_path: Path) -> None:
    found = learned(tmp_path, [short(0), short(1)], steps=12, learning_rate=rate)
    assert found.findings[0].cause == cause
    assert any("train.learning_rate=" in remedy for remedy in found.findings[0].remedies)


def ramped(folder: Path, start: float, stop: float, steps: int) -> LrFind:
    config = tiny_config(**SETTINGS | {"curriculum": [{**SMALL, "learning_rate_scale": 0.5}]})
    samples = data_of([short(seed) for seed in range(4)])
    asked = Ramp(start, stop, steps)
    return find_learning_rate(config, base_of(NAME), samples, asked, folder, SilentReporter())


SMALL = {"name": "small", "max_size": [112, 112]}


@pytest.mark.slow
def test_a_ramp_suggests_a_rate_that_trains_and_keeps_its_curve(tmp_path: Path) -> None:
    found = ramped(tmp_path, 1e-5, 1.0, 30)
    rate = found.suggestion.learning_rate
    assert rate is not None
    assert 1e-4 < rate < 5e-2
    assert found.setting == f"train.learning_rate={rate / 0.5:.1e}"
    assert "ramp of 30 steps" in found.as_json()["dependence"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "curve.csv",
        "curve.png",
        "result.json",
    ]
    assert len((tmp_path / "curve.csv").read_text().splitlines()) == len(found.rates) + 1


@pytest.mark.slow
def test_a_ramp_of_rates_that_do_nothing_suggests_none(tmp_path: Path) -> None:
    found = ramped(tmp_path, 1e-10, 1e-8, 12)
    assert found.setting is None
    assert "noise" in found.suggestion.reason


def test_each_step_sees_every_sample_once_without_dropout() -> None:
    config = tiny_config(batch_size=3, batch_tokens=512, warmup_ratio=0.1, weight_decay=0.1)
    train = by_heart(config, base_of(NAME).family, Heart(samples=5), 5).train
    assert (train.batch_size, train.gradient_accumulation) == (3, 2)
    assert train.batch_tokens is None
    assert (train.lora.dropout, train.warmup_ratio, train.weight_decay) == (0, 0, 0)
    assert [phase.max_size for phase in train.curriculum] == [(168, 168)]


def test_samples_are_taken_from_all_over() -> None:
    assert spread(4, 100) == [0, 25, 50, 75]
    assert spread(4, 2) == [0, 1]


def test_only_the_same_picture_with_the_same_question_contradicts() -> None:
    assert contradictions([short(0), short(1), short(0)]) == []
    assert contradictions([short(0, "a"), short(1, "b")]) == []
    (told,) = contradictions([short(0, "a"), short(2), short(0, "b")])
    assert "'a' and 'b'" in told


def test_a_mask_that_leaves_the_answer_out_is_told() -> None:
    encoder, grid = encoder_of(NAME), encoder_of(NAME).contract.grid
    sample = short(0, "an answer")
    assert mask_faults([sample], encoder, "assistant_after_image", grid) == []
    early = replace(sample, messages=(*sample.messages, sample.messages[0], *sample.messages[1:]))
    late = replace(
        sample,
        messages=(
            Message("user", ("first",)),
            Message("assistant", ("an answer",)),
            Message("user", sample.messages[0].parts),
            Message("assistant", ("",)),
        ),
    )
    assert mask_faults([early], encoder, "assistant_after_image", grid) == []
    unseen = replace(late, messages=late.messages[:-1])
    (told,) = mask_faults([unseen], encoder, "assistant_after_image", grid)
    assert "nothing is supervised" in told


def test_an_answer_is_told_from_where_it_departs() -> None:
    assert Recital("s", "abc", " abc\n").same
    assert "at character 2 'x'" in Recital("s", "abc", "abx").departure
    assert "at character 3 'd' instead of ''" in Recital("s", "abc", "abcd").departure
