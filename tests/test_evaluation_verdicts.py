"""What the gate refuses, and the sentences it gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluation_fakes import ColourEngine, colour_sample, text_sample
from vlmpipe.config.validate import ValidateConfig
from vlmpipe.evaluation.comparison import compare
from vlmpipe.evaluation.verdicts import judge, summary_of
from vlmpipe.tasks import task_of

SEEN = {"#ff0000": "red", "#00ff00": "green"}
HELD = {"#0000ff": "blue", "#000000": "black"}


def samples_of(colours):
    return [colour_sample(answer, colour, answer) for colour, answer in colours.items()]


def compared(tuned, splits=None):
    splits = splits or {"train": samples_of(SEEN), "heldout": samples_of(HELD)}
    engines = {"base": ColourEngine("base", {"": "?"}), "tuned": ColourEngine("tuned", tuned)}
    return compare(engines, splits, task_of, max_new_tokens=20)


READS = compared({**SEEN, **HELD})


def test_model_that_reads_passes():
    judgement = judge(READS, ValidateConfig(min_image_gain=1.0))
    assert judgement.passed
    assert judgement.reasons == ()


def test_metric_names_are_split_metric_model():
    assert READS.metrics["train/exact_match/tuned"] == 1.0
    assert READS.metrics["train/agreement/tuned"] == 1.0
    assert READS.metrics["heldout/exact_match/base"] == 0.0
    assert READS.metrics["speed/tokens_per_second/tuned"] == pytest.approx(10.0)
    assert READS.metrics["reliance/image_gain/tuned"] == pytest.approx(2.0)


def test_threshold_that_is_missed_names_metric_value_and_limit():
    judgement = judge(READS, ValidateConfig(thresholds={"heldout/exact_match/base": 0.9}))
    assert judgement.reasons == (
        "heldout/exact_match/base is 0, below its threshold 0.9 (validate.thresholds)",
    )


def test_threshold_on_an_error_rate_or_a_loss_is_its_largest_value():
    limits = {"heldout/cer/base": 0.5, "reliance/loss_true/base": 0.1, "heldout/cer/tuned": 0.0}
    reasons = judge(READS, ValidateConfig(thresholds=limits)).reasons
    assert [reason.partition(" is ")[0] for reason in reasons] == [*limits][:2]
    assert "above its threshold 0.5" in reasons[0]


def test_threshold_on_a_name_not_measured_fails_with_near_misses():
    judgement = judge(READS, ValidateConfig(thresholds={"heldout/exact_mach/tuned": 0.1}))
    assert not judgement.passed
    assert "heldout/exact_match/tuned" in judgement.reasons[0].partition("did you mean")[2]


def test_learning_the_training_set_by_heart_is_over_fit():
    judgement = judge(compared({**SEEN, "": "red"}), ValidateConfig(min_image_gain=0))
    assert [reason.partition(":")[0] for reason in judgement.reasons] == ["over-fit"]
    assert "1.000 on training probes" in judgement.reasons[0]


def test_answering_from_the_prior_is_refused():
    judgement = judge(compared({"": "red"}), ValidateConfig(min_image_gain=0.1, max_overfit_gap=1))
    assert len(judgement.reasons) == 1
    assert "validate.min_image_gain 0.1" in judgement.reasons[0]


def test_all_failures_are_reported_together():
    rules = ValidateConfig(
        thresholds={"heldout/exact_match/tuned": 0.5, "no/such/thing": 1}, min_image_gain=0.1
    )
    assert len(judge(compared({"": "red"}), rules).reasons) == 4


def test_text_only_samples_are_not_held_to_image_gain():
    questions = [text_sample("q1", "Why?", "So."), text_sample("q2", "How?", "Thus.")]
    comparison = compared({"": "So."}, {"train": questions[:1], "heldout": questions[1:]})
    judgement = judge(comparison, ValidateConfig(min_image_gain=0.5, max_overfit_gap=1))
    assert judgement.passed
    assert "image reliance not measured: no sample has an image" in judgement.notes
    assert not any(name.startswith("reliance/") for name in comparison.metrics)


def test_image_gain_that_is_asked_for_and_cannot_be_measured_fails():
    one = samples_of(SEEN)[:1]
    comparison = compared(SEEN, {"train": one, "heldout": []})
    assert judge(comparison, ValidateConfig(min_image_gain=0)).passed
    [reason] = judge(comparison, ValidateConfig(min_image_gain=0.1)).reasons
    assert "could not be checked: only one sample has an image" in reason


def test_nothing_held_out_is_said_and_reliance_falls_back_on_training_probes():
    comparison = compared({**SEEN, **HELD}, {"train": samples_of(SEEN), "heldout": []})
    assert comparison.reliance_split == "train"
    assert comparison.metrics["reliance/image_gain/tuned"] == pytest.approx(2.0)
    assert any(
        "no sample was held out" in note for note in judge(comparison, ValidateConfig()).notes
    )
    assert summary_of(comparison, judge(comparison, ValidateConfig()))[0].startswith(
        "agreement on 2"
    )


def test_loss_that_is_no_number_fails():
    broken = replace(READS, metrics={**READS.metrics, "heldout/loss/tuned": float("nan")})
    assert "heldout/loss/tuned is nan" in judge(broken, ValidateConfig()).reasons[0]


def test_progress_ends_at_its_total():
    seen = []
    splits = {"train": samples_of(SEEN), "heldout": samples_of(HELD)}
    engines = {"base": ColourEngine("base", {}), "tuned": ColourEngine("tuned", {})}
    compare(
        engines,
        splits,
        task_of,
        max_new_tokens=5,
        progress=lambda label, done, total: seen.append((label, done, total)),
    )
    assert [done for _, done, _ in seen] == list(range(1, seen[-1][2] + 1))
    assert seen[-1][0].startswith("tuned")
