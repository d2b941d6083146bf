"""What the gate refuses, and the sentences it gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

import evaluation_fakes
from evaluation_fakes import ColourEngine, colour_sample, systems_of, text_sample
from vlmpipe.config.validate import ValidateConfig
from vlmpipe.evaluation.validation.comparison import Comparison, compare
from vlmpipe.evaluation.validation.figures import figures_of, paired_json
from vlmpipe.evaluation.validation.rules import RuleVerdict
from vlmpipe.evaluation.validation.verdicts import Assessment, Judgement, judge, summary_of

SEEN = {"#ff0000": "red", "#00ff00": "green"}
HELD = {"#0000ff": "blue", "#000000": "black"}


def samples_of(colours):
    return [colour_sample(answer, colour, answer) for colour, answer in colours.items()]


def compared(tuned, splits=None) -> Comparison:
    splits = splits or {"train": samples_of(SEEN), "heldout": samples_of(HELD)}
    return evaluation_fakes.compared(tuned, splits)


def judged(comparison: Comparison, **rules) -> Judgement:
    return judge(Assessment.of(comparison), ValidateConfig(**rules))


def verdict_of(judgement: Judgement, name: str) -> RuleVerdict:
    [found] = [each for each in judgement.verdicts if each.name == name]
    return found


READS = compared({**SEEN, **HELD})


def test_model_that_reads_passes():
    judgement = judged(READS, min_image_gain=1.0)
    assert judgement.passed
    assert judgement.reasons == ()
    assert verdict_of(judgement, "image_reliance").passed is True
    assert verdict_of(judgement, "overfit").passed is True


def test_metric_names_are_split_metric_model():
    metrics = figures_of(READS).metrics
    assert metrics["train/exact_match/tuned"] == 1.0
    assert metrics["train/agreement/tuned"] == 1.0
    assert metrics["heldout/exact_match/base"] == 0.0
    assert metrics["speed/tokens_per_second/tuned"] == pytest.approx(10.0)
    assert metrics["reliance/image_gain/tuned"] == pytest.approx(2.0)
    assert metrics["heldout/perplexity/tuned"] == pytest.approx(2.718281828**0.25)
    assert metrics["heldout/token_accuracy/base"] == 0.0


def test_means_have_intervals_and_base_is_paired_with_tuned():
    held = {f"#0000{n:02x}": name for n, name in enumerate("abcdefgh")}
    answers = {colour: name if name < "e" else "wrong" for colour, name in held.items()}
    comparison = compared(answers, {"train": [], "heldout": samples_of(held)})
    found = figures_of(comparison)
    interval = found.intervals["heldout/exact_match/tuned"]
    assert 0 < interval.low < 0.5 < interval.high < 1
    change = paired_json(found.paired)["heldout/exact_match"]
    assert change["difference"] == 0.5
    assert change["samples"] == 8
    assert change["p_value"] == pytest.approx(2 * 2**4 / 2**8)
    assert change["significant"] is False
    assert "perplexity" not in {name.split("/")[1] for name in found.paired}


@pytest.mark.parametrize("count,doubt", [(5, "too few samples"), (6, "")])
def test_a_difference_on_few_samples_is_not_called_sure(count, doubt):
    held = {f"#0000{n:02x}": name for n, name in enumerate("abcdefgh"[:count])}
    assessment = Assessment.of(compared(held, {"train": [], "heldout": samples_of(held)}))
    line = summary_of(assessment, judge(assessment, ValidateConfig()))[0]
    assert "base 0.000, tuned 1.000" in line
    assert (doubt in line) if doubt else line.endswith("difference +1.000, p = 0.031")


def test_speed_counts_tokens_after_the_first_only():
    metrics = figures_of(
        compared({"": "orange"}, {"train": samples_of(SEEN), "heldout": []})
    ).metrics
    assert metrics["speed/tokens_per_second/tuned"] == pytest.approx(10.0)
    assert metrics["speed/tokens_per_second/base"] == 0.0, "one token has no second"


def test_threshold_that_is_missed_names_metric_value_and_limit():
    judgement = judged(READS, thresholds={"heldout/exact_match/base": 0.9})
    assert judgement.reasons == (
        "heldout/exact_match/base is 0, below its threshold 0.9 (validate.thresholds)",
    )


def test_threshold_on_an_error_rate_or_a_loss_is_its_largest_value():
    limits = {"heldout/cer/base": 0.5, "reliance/loss_true/base": 0.1, "heldout/cer/tuned": 0.0}
    reasons = judged(READS, thresholds=limits).reasons
    assert [reason.partition(" is ")[0] for reason in reasons] == [*limits][:2]
    assert "above its threshold 0.5" in reasons[0]


def test_threshold_on_a_name_not_measured_fails_with_near_misses():
    judgement = judged(READS, thresholds={"heldout/exact_mach/tuned": 0.1})
    assert not judgement.passed
    assert "heldout/exact_match/tuned" in judgement.reasons[0].partition("did you mean")[2]


def test_thresholds_that_are_met_are_one_verdict():
    limits = {"heldout/exact_match/tuned": 1.0, "heldout/perplexity/tuned": 2.0}
    verdict = verdict_of(judged(READS, thresholds=limits), "thresholds")
    assert verdict.passed is True
    assert "heldout/perplexity/tuned is 1.284" in verdict.sentence


def test_learning_the_training_set_by_heart_is_over_fit():
    judgement = judged(compared({**SEEN, "": "red"}), min_image_gain=0)
    assert [reason.partition(":")[0] for reason in judgement.reasons] == ["over-fit"]
    assert "1.000 on training probes" in judgement.reasons[0]
    assert verdict_of(judgement, "overfit").passed is False


def test_a_gap_that_few_samples_do_not_settle_fails_and_says_so():
    """The gap decides: asking less must not open the gate."""
    held = {"#0000ff": "blue", "#000000": "black", "#ffffff": "white"}
    answers = {**SEEN, "#0000ff": "blue", "": "?"}
    splits = {"train": samples_of(SEEN), "heldout": samples_of(held)}
    [reason] = judged(compared(answers, splits), min_image_gain=0).reasons
    assert "a gap of 0.667 (95 % interval" in reason
    assert "not told apart from chance on 2 and 3 samples" in reason
    sure = judged(compared({**SEEN, "": "?"}, splits), min_image_gain=0).reasons
    assert "not told apart" not in sure[0]


TABLE = "<table><tr><td>a</td></tr></table>"
MIXED = {
    "train": [*samples_of(SEEN), colour_sample("t", "#111111", TABLE, "table")],
    "heldout": [
        *samples_of(HELD),
        *(colour_sample(f"u{n}", f"#22222{n}", TABLE, "table") for n in range(2)),
    ],
}


def test_each_task_is_judged_by_its_own_metric_and_named():
    comparison = compared({**SEEN, **HELD, "#111111": TABLE}, MIXED)
    judgement = judged(comparison, min_image_gain=0)
    verdicts = [each for each in judgement.verdicts if each.name == "overfit"]
    assert [each.passed for each in verdicts] == [True, False]
    assert "agreement of the tuned model is 1.000 on training probes of qa" in verdicts[0].sentence
    assert "teds of the tuned model is 1.000 on training probes of table" in verdicts[1].sentence
    lines = summary_of(Assessment.of(comparison), judgement)
    assert [line.partition(":")[0] for line in lines[:4]] == [
        "agreement on 2 training probes of qa",
        "teds on 1 training probe of table",
        "agreement on 2 held-out samples of qa",
        "teds on 2 held-out samples of table",
    ]


def test_a_task_that_no_probe_is_of_is_not_judged_and_says_so():
    splits = {"train": samples_of(SEEN), "heldout": MIXED["heldout"]}
    judgement = judged(compared({**SEEN, **HELD}, splits), min_image_gain=0)
    [qa, table] = [each for each in judgement.verdicts if each.name == "overfit"]
    assert (qa.passed, table.passed) == (True, None)
    assert "no training probe is of table (validate.train_probes)" in table.sentence
    splits = {"train": MIXED["train"], "heldout": samples_of(HELD)}
    judgement = judged(compared({**SEEN, **HELD}, splits), min_image_gain=0)
    assert any("no held-out sample that was asked is of table" in note for note in judgement.notes)


def test_answering_from_the_prior_is_refused():
    judgement = judged(compared({"": "red"}), min_image_gain=0.1, max_overfit_gap=1)
    assert len(judgement.reasons) == 1
    assert "validate.min_image_gain 0.1" in judgement.reasons[0]
    assert verdict_of(judgement, "image_reliance").passed is False


def test_all_failures_are_reported_together():
    limits = {"heldout/exact_match/tuned": 0.5, "no/such/thing": 1}
    assert len(judged(compared({"": "red"}), thresholds=limits, min_image_gain=0.1).reasons) == 4


def test_text_only_samples_are_not_held_to_image_gain():
    questions = [text_sample("q1", "Why?", "So."), text_sample("q2", "How?", "Thus.")]
    comparison = compared({"": "So."}, {"train": questions[:1], "heldout": questions[1:]})
    judgement = judged(comparison, min_image_gain=0.5, max_overfit_gap=1)
    assert judgement.passed
    assert "image reliance not measured: no sample has an image" in judgement.notes
    assert verdict_of(judgement, "image_reliance").passed is None
    assert not any(name.startswith("reliance/") for name in figures_of(comparison).metrics)


def test_image_gain_that_is_asked_for_and_cannot_be_measured_fails():
    comparison = compared(SEEN, {"train": samples_of(SEEN)[:1], "heldout": []})
    assert judged(comparison, min_image_gain=0).passed
    [reason] = judged(comparison, min_image_gain=0.1).reasons
    assert "could not be checked: only one sample has an image" in reason


def test_nothing_held_out_is_said_and_reliance_falls_back_on_training_probes():
    comparison = compared({**SEEN, **HELD}, {"train": samples_of(SEEN), "heldout": []})
    assert comparison.reliance_split == "train"
    assessment = Assessment.of(comparison)
    judgement = judge(assessment, ValidateConfig())
    assert assessment.figures.metrics["reliance/image_gain/tuned"] == pytest.approx(2.0)
    assert verdict_of(judgement, "overfit").passed is None
    assert any("no sample was held out" in note for note in judgement.notes)
    assert summary_of(assessment, judgement)[0].startswith("agreement on 2 training probes")


def test_loss_that_is_no_number_fails(monkeypatch):
    monkeypatch.setattr(evaluation_fakes, "KNOWN_LOSS", float("nan"))
    comparison = compared({**SEEN, **HELD})
    assert "4 of 4 references have no loss under tuned" in judged(comparison).reasons[0]


def test_metric_that_is_no_number_fails():
    assessment = Assessment.of(READS)
    figures = replace(assessment.figures, metrics={"heldout/teds/tuned": float("inf")})
    [first, *_] = judge(replace(assessment, figures=figures), ValidateConfig()).reasons
    assert "heldout/teds/tuned is inf" in first


def test_answers_that_could_not_be_measured_are_told():
    tuned = [
        record.model_copy(update={"unmeasured": "measuring it took more than 60 s"})
        for record in READS.records["tuned"]
    ]
    comparison = replace(READS, records={**READS.records, "tuned": tuned})
    [note] = judged(comparison).notes
    assert note.startswith("4 of 4 answers of tuned could not be measured and count as 0")


def test_an_unmeasured_answer_counts_as_0_in_the_metric_of_its_own_task():
    comparison = compared({**SEEN, **HELD}, MIXED)
    tuned = [
        record.model_copy(update={"unmeasured": "its measuring crashed"})
        if record.task == "table"
        else record
        for record in comparison.records["tuned"]
    ]
    comparison = replace(comparison, records={**comparison.records, "tuned": tuned})
    notes = judged(comparison).notes
    assert comparison.primary_metric == "agreement"
    assert (
        "3 of 7 answers of tuned could not be measured and count as 0 in teds:"
        " its measuring crashed" in notes
    )


def test_progress_ends_at_its_total():
    seen = []
    splits = {"train": samples_of(SEEN), "heldout": samples_of(HELD)}
    engines = {"base": ColourEngine("base", {}), "tuned": ColourEngine("tuned", {})}
    compare(
        engines,
        systems_of(max_new_tokens=5),
        splits,
        progress=lambda label, done, total: seen.append((label, done, total)),
    )
    assert [done for _, done, _ in seen] == list(range(1, seen[-1][2] + 1))
    assert seen[-1][0].startswith("tuned")
