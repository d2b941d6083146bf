"""Image reliance: who looks is told from who guesses."""

from __future__ import annotations

import pytest

from evaluation_fakes import (
    KNOWN_LOSS,
    UNKNOWN_LOSS,
    ColourEngine,
    colour_sample,
    system_of,
    text_sample,
)
from vlmpipe.evaluation.answers import answer_samples, measured_here
from vlmpipe.evaluation.measuring import Measured
from vlmpipe.evaluation.reliance import (
    ANSWERED_SAMPLES,
    measure_reliance,
    partners,
    probes_of,
    why_not_measurable,
)
from vlmpipe.tasks import task_of

COLOURS = {"#ff0000": "red", "#00ff00": "green", "#0000ff": "blue"}
SAMPLES = [colour_sample(answer, colour, answer) for colour, answer in COLOURS.items()]


def reliance_of(engine: ColourEngine, samples=SAMPLES, **options):
    return measure_reliance(
        engine, probes_of(samples), task_of, "exact_match", max_new_tokens=20, **options
    )


def test_model_that_looks_loses_with_a_wrong_or_blank_image():
    found = reliance_of(ColourEngine("looks", COLOURS))
    assert found.losses["true"] == KNOWN_LOSS
    assert found.image_gain == pytest.approx(UNKNOWN_LOSS - KNOWN_LOSS)
    assert found.blank_gain == pytest.approx(UNKNOWN_LOSS - KNOWN_LOSS)
    assert found.task_metric == {"true": 1.0, "blank": 0.0, "swapped": 0.0}


def test_model_that_answers_from_the_prior_gains_nothing():
    found = reliance_of(ColourEngine("guesses", {"": "red"}))
    assert found.image_gain == pytest.approx(0.0)
    assert found.task_metric["true"] == found.task_metric["swapped"]


def test_metrics_are_named_by_what_and_model():
    metrics = reliance_of(ColourEngine("looks", COLOURS)).as_metrics("exact_match", "tuned")
    assert {
        "reliance/loss_true/tuned",
        "reliance/loss_blank/tuned",
        "reliance/loss_swapped/tuned",
        "reliance/image_gain/tuned",
        "reliance/blank_gain/tuned",
        "reliance/exact_match_swapped/tuned",
    } <= set(metrics)


def test_blank_image_has_the_true_one_s_size():
    probe = probes_of(SAMPLES)[0]
    assert probe.blank.images[0].size == probe.true.images[0].size
    assert probe.blank.images[0].getpixel((0, 0)) == (255, 255, 255)
    assert probe.blank.reference == probe.true.reference


def test_partners_show_something_else_and_are_each_used_once():
    samples = [
        colour_sample(str(n), "#ff0000" if n < 3 else f"#0000{n:02d}", "x") for n in range(7)
    ]
    found = partners(samples)
    assert [each.id for each in found] == [each.id for each in partners(samples)]
    assert sorted(each.id for each in found) == sorted(each.id for each in samples)
    for sample, other in zip(samples, found, strict=True):
        assert sample.images[0].tobytes() != other.images[0].tobytes()


def test_partners_differ_even_where_one_image_prevails():
    samples = [colour_sample(str(n), "#00ff00" if n == 2 else "#ff0000", "x") for n in range(5)]
    for sample, other in zip(samples, partners(samples), strict=True):
        assert sample.images[0].tobytes() != other.images[0].tobytes()


@pytest.mark.parametrize(
    "samples,reason",
    [
        ([], "no sample has an image"),
        ([text_sample("q", "Why?", "So.")], "no sample has an image"),
        (SAMPLES[:1], "only one sample"),
        ([SAMPLES[0], SAMPLES[0]], "the same image"),
    ],
)
def test_what_cannot_be_measured_says_why(samples, reason):
    assert reason in why_not_measurable(samples)


def test_known_answers_are_not_asked_again():
    engine = ColourEngine("looks", COLOURS)
    options = {"split": "heldout", "measure": measured_here}
    known = list(answer_samples(engine, system_of(), SAMPLES, **options))
    engine.asked.clear()
    found = reliance_of(engine, known=known)
    assert len(engine.asked) == 2 * len(SAMPLES)
    assert found == reliance_of(ColourEngine("looks", COLOURS))


def test_answers_are_measured_where_they_were_asked_to_be():
    asked = []

    def measure(task: str, prediction: str, reference: str) -> Measured:
        asked.append(prediction)
        return Measured({"exact_match": 0.25})

    found = reliance_of(ColourEngine("looks", COLOURS), measure=measure)
    assert len(asked) == 3 * len(SAMPLES)
    assert set(found.task_metric.values()) == {0.25}


def test_gain_has_an_interval_that_holds_it():
    samples = [*SAMPLES, colour_sample("white", "#ffffff", "white")]
    found = reliance_of(ColourEngine("looks", {**COLOURS, "#ffffff": "grey"}), samples)
    interval = found.gain_intervals["image_gain"]
    assert interval.low <= found.image_gain <= interval.high
    assert interval.low < interval.high


def test_answers_are_asked_of_a_few_samples_and_losses_of_all():
    samples = [colour_sample(str(n), f"#0000{n:02d}", "x") for n in range(ANSWERED_SAMPLES + 3)]
    engine, steps = ColourEngine("guesses", {"": "x"}), []
    reliance_of(engine, samples, on_step=lambda: steps.append(1))
    assert len(engine.asked) == 3 * ANSWERED_SAMPLES
    assert len(steps) == 3 * len(samples)


def test_a_sample_with_two_images_takes_its_partner_s_single_one_twice():
    from dataclasses import replace

    first = SAMPLES[0]
    turn = replace(first.messages[0], parts=(*first.images, *first.images, "Which?"))
    double = replace(first, id="double", messages=(turn, first.messages[1]))
    probe = probes_of([double, SAMPLES[1]])[0]
    assert [image.getpixel((0, 0)) for image in probe.swapped.images] == [(0, 255, 0)] * 2
