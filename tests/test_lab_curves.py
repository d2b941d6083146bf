"""What the lab reads off curves and rows: learning rates, causes, noise over seeds."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlmpipe.config.train import TrainConfig
from vlmpipe.training.lab.findings import Evidence, find_causes
from vlmpipe.training.lab.lr_curve import has_diverged, ramp, suggest
from vlmpipe.training.lab.steps import Step
from vlmpipe.training.lab.sweep_noise import over_seeds
from vlmpipe.training.lab.sweep_rows import TrialRow, ranked

RATES = ramp(1e-6, 1.0, 61)


def valley_at(rate: float, noise: float = 0.02, seed: int = 0) -> list[float]:
    """A loss that falls most steeply at `rate`, and rises from thirty times it on."""
    draw = random.Random(seed)
    place = [math.log10(each / rate) for each in RATES]
    return [
        4 - 3 / (1 + math.exp(-4 * x)) + 5 * max(0.0, x - 1.5) ** 2 + draw.gauss(0, noise)
        for x in place
    ]


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 5e-3])
def test_the_rate_is_read_off_where_the_loss_falls_fastest(rate: float) -> None:
    found = suggest(RATES, valley_at(rate))
    assert found.learning_rate is not None
    assert rate / 2 < found.learning_rate < rate * 2
    assert found.minimum is not None
    assert found.learning_rate < found.minimum
    assert found.onset is not None
    assert rate / 30 < found.onset <= found.learning_rate


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_gives_no_rate(seed: int) -> None:
    draw = random.Random(seed)
    found = suggest(RATES, [4 + draw.gauss(0, 0.3) for _ in RATES])
    assert found.learning_rate is None
    assert "noise" in found.reason


def test_a_loss_that_only_rises_gives_no_rate() -> None:
    found = suggest(RATES, [2 + place / 20 for place in range(61)])
    assert found.learning_rate is None


def test_a_loss_that_still_falls_at_the_end_gives_no_rate_and_says_where_to_go() -> None:
    found = suggest(RATES[:30], [4 - place / 10 for place in range(30)])
    assert found.learning_rate is None
    assert "--to" in found.reason
    ended = suggest(ramp(1e-6, 1.0, 30), [4 - place / 10 for place in range(30)])
    assert ended.learning_rate is None
    assert "--to" not in ended.reason  # train.learning_rate ends there


def test_the_careful_rate_does_not_lie_where_a_loss_only_creeps() -> None:
    """A long slow slope before the fall is its longest part, and does no work."""
    losses = [each - 0.002 * place for place, each in enumerate(valley_at(3e-3, noise=0.001))]
    found = suggest(RATES, losses)
    assert found.onset is not None
    assert 3e-4 < found.onset < 3e-3


def test_a_curves_picture_shows_its_lowest_and_all_losses_before_it() -> None:
    from vlmpipe.training.lab.drawing import _heights
    from vlmpipe.training.lab.lr_curve import smoothed

    losses = [4.0, 5.5, 3.9, 4.0, 3.0, 2.0, 0.4, 2.1, 2.0, 2.2, 30.0]
    low, top = _heights(losses, smoothed(losses))
    assert low < 0.4
    assert 5.5 < top < 30


def test_a_ramp_that_diverged_at_once_gives_no_rate() -> None:
    assert suggest(RATES[:3], [1.0, 2.0, 9.0]).learning_rate is None


def test_a_ramp_ends_where_the_loss_is_no_number_or_far_above_its_best() -> None:
    assert has_diverged([2.0, math.nan])
    assert has_diverged([1.0] * 10 + [9.0] * 5)
    assert not has_diverged([1.0] * 10 + [9.0])  # one odd batch
    assert not has_diverged([])


def steps(losses: list[float], norm: float = 1.0) -> list[Step]:
    return [Step(number, loss, norm, 1e-4) for number, loss in enumerate(losses, start=1)]


def causes(losses: list[float], norm: float = 1.0, **other: Any) -> list[str]:
    found = findings(losses, norm, **other)
    assert all(each.evidence and each.remedies for each in found)
    return [each.cause for each in found]


def findings(losses: list[float], norm: float = 1.0, **other: Any) -> list[Any]:
    loss = other.pop("loss", losses[-1])
    evidence = Evidence(steps(losses, norm), 0.02, loss, **other)
    return find_causes(evidence, TrainConfig(learning_rate=1e-4))


FALLING = [3 * 0.98**place for place in range(60)]
STANDING = [3 * 0.5**place + 0.7 for place in range(60)]


def test_a_flat_loss_with_gradients_is_a_rate_too_low() -> None:
    (found,) = findings([3 - place * 1e-4 for place in range(60)], 0.25)
    assert found.cause == "the learning rate is too low"
    assert "norm was 0.25" in found.evidence
    assert any("train.learning_rate=0.001" in remedy for remedy in found.remedies)


def test_no_gradient_is_told_apart_from_a_low_rate() -> None:
    assert causes([3.0] * 60, norm=0.0) == ["no gradient reaches the trained weights"]


def test_a_loss_that_explodes_overflows_or_jumps_is_a_rate_too_high() -> None:
    for losses in (
        [3.0, 2.0, 1.0, *[9.0] * 20],
        [3.0, 2.0, 5.0, math.nan],
        [3.0, *[0.5, 0.9] * 30],
    ):
        assert causes(losses) == ["the learning rate is too high"]
    assert "train.learning_rate=1e-05" in findings([3.0, math.nan])[0].remedies[0]
    assert causes([math.nan]) == ["numbers overflow before anything is learned"]


def test_an_adapter_thrown_far_is_a_rate_too_high_though_it_sees_no_images() -> None:
    losses = [8.6, 3.7, 6.3, 3.4, *[1.2 - place / 1000 for place in range(30)]]
    course = [Step(n, loss, 2500 if n == 3 else 9, 0.1) for n, loss in enumerate(losses, 1)]
    (found,) = find_causes(Evidence(course, 0.02, 1.17, blank_loss=1.17), TrainConfig())
    assert found.cause == "the learning rate is too high"
    assert "2.5e+03" in found.evidence


def test_a_loss_that_still_falls_is_given_the_steps_that_it_needs() -> None:
    (found,) = findings(FALLING)
    assert found.cause == "too few steps"
    needed = math.log(0.02 / 3) / math.log(0.98)
    told = int(found.remedies[0].rpartition(" ")[2])
    assert needed < told < 1.5 * needed


def test_a_loss_that_stands_is_capacity_only_where_nothing_else_explains_it() -> None:
    (found,) = findings(STANDING, blank_loss=2.0)
    assert found.cause == "what is trained cannot hold these samples"
    assert "train.lora.r=64" in found.remedies[0]
    assert causes(STANDING, blank_loss=0.70001) == ["the images are not seen"]
    assert causes(STANDING, conflicts=["a and b"]) == ["samples contradict each other"]


def test_a_wrong_mask_stands_first() -> None:
    assert causes(FALLING, mask_faults=["s0: nothing"])[0] == "the wrong tokens are supervised"


def test_wrong_answers_at_a_low_loss_are_told_where_they_depart() -> None:
    (found,) = findings([3.0, *[0.01] * 20], wrong_answers=["s0: at character 3"])
    assert "at character 3" in found.evidence


def row(label: str, seed: int | None, metric: float | None, number: int = 1) -> TrialRow:
    return TrialRow(number, f"run{number}", {"train.lora.r": label}, seed, metric=metric)


def test_settings_that_differ_as_seeds_do_are_within_noise() -> None:
    rows = [
        *(row("a", seed, value) for seed, value in enumerate([0.80, 0.84, 0.82])),
        *(row("b", seed, value) for seed, value in enumerate([0.83, 0.80, 0.81])),
        *(row("c", seed, value) for seed, value in enumerate([0.40, 0.43, 0.42])),
    ]
    best, alike, worse = over_seeds(rows, "heldout/teds/tuned")
    assert (best.label, alike.label, worse.label) == ("r=a", "r=b", "r=c")
    assert best.within_noise is None
    assert alike.within_noise is True
    assert worse.within_noise is False
    assert worse.difference == pytest.approx(-0.4033, abs=1e-3)


def test_differences_are_paired_by_seed() -> None:
    """Seeds that shift both settings alike hide nothing."""
    rows = [
        *(row("a", seed, value) for seed, value in enumerate([0.9, 0.5, 0.1])),
        *(row("b", seed, value) for seed, value in enumerate([0.88, 0.481, 0.079])),
    ]
    assert over_seeds(rows, "heldout/teds/tuned")[1].within_noise is False


def test_one_seed_tells_nothing_of_noise() -> None:
    found = over_seeds([row("a", 1, 0.5), row("b", 1, 0.4)], "heldout/teds/tuned")
    assert found[1].interval is None
    assert found[1].within_noise is None
    assert over_seeds([row("a", None, 0.5)], "heldout/teds/tuned") == []


def test_rows_are_sorted_by_what_is_better_and_failures_are_last() -> None:
    rows = [row("a", None, None, 1), row("b", None, 0.2, 2), row("c", None, 0.9, 3)]
    assert [each.number for each in ranked(rows, "heldout/teds/tuned")] == [3, 2, 1]
    assert [each.number for each in ranked(rows, "heldout/loss/tuned")] == [2, 3, 1]


def test_a_sweeps_picture_names_what_failed_and_bars_only_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmpipe.training.lab import drawing

    drawn: list[Any] = []

    def keep(path: Path, size: tuple[float, float], draw: Any) -> bool:
        from matplotlib.figure import Figure

        axes = Figure().add_subplot()
        draw(axes)
        drawn.append(axes)
        return True

    monkeypatch.setattr(drawing, "_saved", keep)
    rows = [row("a", 1, 0.0), row("a", 2, None), row("b", 1, 1.0), row("c", 1, None)]
    drawing.draw_sweep(tmp_path / "a.png", rows, "heldout/teds/tuned")
    (axes,) = drawn
    names = [each.get_text() for each in axes.get_yticklabels()]
    assert names == ["r=b", "r=a (1 of 2 failed)", "r=c (failed)"]
    assert axes.get_xlim() == (0, 1)
    assert "bars" not in axes.get_xlabel()
    wide = [replace(rows[2], interval=(-0.1, 1.3))]
    drawing.draw_sweep(tmp_path / "a.png", wide, "heldout/gain/tuned")
    assert "bars: 95 %" in drawn[1].get_xlabel()
    assert drawn[1].get_xlim()[0] < -0.1
    assert drawn[1].get_xlim()[1] > 1.3


def test_pictures_are_drawn(tmp_path: Path) -> None:
    from PIL import Image

    from vlmpipe.training.lab.drawing import draw_lr_curve, draw_sweep

    losses = valley_at(1e-3)
    assert draw_lr_curve(tmp_path / "a.png", RATES, losses, suggest(RATES, losses))
    rows = [row("a", 1, 0.5), row("a", 2, 0.6), row("b", 1, 0.4), row("b", 2, None)]
    assert draw_sweep(tmp_path / "b.png", rows, "heldout/teds/tuned")
    for name in ("a.png", "b.png"):
        assert min(Image.open(tmp_path / name).size) > 200
    zeros = [replace(each, metric=0.0, interval=(0.0, 0.0)) for each in rows[:3]]
    assert draw_sweep(tmp_path / "zeros.png", zeros, "heldout/teds/tuned")
    assert not draw_sweep(tmp_path / "c.png", [row("a", 1, None)], "heldout/teds/tuned")
