"""A phase's micro-batches: budget, coverage, determinism, and the same steps on any processes."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmpipe.training.batching.plan import BatchPlan, BatchRule, plan_batches

lengths = st.lists(st.integers(0, 400), min_size=1, max_size=120)
budgets = st.integers(64, 1000)


def plan(tokens: list[int], rule: BatchRule, **settings: Any) -> BatchPlan:
    settings.setdefault("seed", 0)
    if "steps" not in settings:
        settings.setdefault("epochs", 1)
    aspects = [math.exp(random.Random(place).gauss(0, 0.5)) for place in range(len(tokens))]
    return plan_batches(range(len(tokens)), tokens, aspects, rule=rule, **settings)


def realistic(count: int, seed: int = 0) -> list[int]:
    """Answers of 50 to 600 tokens over images of some sizes, or none."""
    rng = random.Random(seed)
    images = [0, 64, 256, 350, 512, 900, 1280]
    return [rng.choice(images) + 50 + min(550, int(rng.expovariate(1 / 150))) for _ in range(count)]


def seen(planned: BatchPlan) -> Counter[tuple[int, int]]:
    return Counter((row.sample, row.epoch) for row in planned.rows)


def once(count: int, passes: int) -> Counter[tuple[int, int]]:
    return Counter((sample, epoch) for sample in range(count) for epoch in range(passes))


@given(
    tokens=lengths,
    budget=st.none() | budgets,
    packed=st.booleans(),
    passes=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    processes=st.integers(1, 3),
)
def test_every_sample_is_seen_once_a_pass_and_every_process_steps_alike(
    tokens: list[int],
    budget: int | None,
    packed: bool,
    passes: int,
    accumulation: int,
    processes: int,
) -> None:
    rule = BatchRule(batch_size=3, batch_tokens=budget, packed=packed)
    planned = plan(tokens, rule, epochs=passes, accumulation=accumulation, processes=processes)
    assert seen(planned) == once(len(tokens), passes)
    shares = [planned.of_process(rank) for rank in range(processes)]
    assert {len(share) for share in shares} == {planned.steps * accumulation}
    muted = [row for batch in planned.batches for row in batch if row.muted]
    assert planned.figures.muted == len(muted) < accumulation * processes
    assert all(len(batch) == 1 for batch in planned.batches if batch[0].muted)


@given(tokens=lengths, budget=budgets, packed=st.booleans())
def test_no_batch_of_several_samples_is_above_the_budget(
    tokens: list[int], budget: int, packed: bool
) -> None:
    planned = plan(tokens, BatchRule(batch_tokens=budget, packed=packed))
    for batch in planned.batches:
        sizes = [tokens[row.sample] for row in batch]
        places = sum(sizes) if packed else len(sizes) * max(sizes)
        assert places <= budget or len(batch) == 1
    assert planned.figures.oversized == sum(each > budget for each in tokens)


@given(tokens=lengths, budget=st.none() | budgets, packed=st.booleans(), seed=st.integers(0, 9))
def test_figures_are_those_of_the_batches(
    tokens: list[int], budget: int | None, packed: bool, seed: int
) -> None:
    rule = BatchRule(batch_size=2, batch_tokens=budget, packed=packed)
    planned = plan(tokens, rule, seed=seed, accumulation=2)
    places = [
        sum(sizes) if packed else len(sizes) * max(sizes)
        for sizes in ([tokens[row.sample] for row in batch] for batch in planned.batches)
    ]
    figures = planned.figures
    assert figures.tokens == sum(tokens)
    assert figures.places == sum(places)
    assert figures.longest == max(places) == places[planned.largest]
    assert figures.batches == len(planned.batches)
    assert figures.samples_per_batch == len(tokens) / len(planned.batches)
    assert 0 <= figures.padding_share <= 1
    assert set(figures.as_json()) >= {"padding_share", "samples_per_batch", "fill", "oversized"}


@given(
    tokens=lengths,
    budget=st.none() | budgets,
    packed=st.booleans(),
    steps=st.integers(1, 40),
    accumulation=st.integers(1, 3),
)
def test_steps_are_as_many_as_were_asked_for(
    tokens: list[int], budget: int | None, packed: bool, steps: int, accumulation: int
) -> None:
    """As many passes as they take, each whole but the last."""
    rule = BatchRule(batch_size=4, batch_tokens=budget, packed=packed)
    planned = plan(tokens, rule, steps=steps, accumulation=accumulation)
    assert planned.steps == steps
    assert planned.figures.muted == 0
    passes = planned.figures.passes
    whole = Counter({pair: n for pair, n in seen(planned).items() if pair[1] < passes - 1})
    assert whole == once(len(tokens), passes - 1)
    assert max(seen(planned).values()) == 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("budget", [None, 2048])
def test_processes_only_divide_what_accumulation_would_do(budget: int | None, packed: bool) -> None:
    """One process with six micro-batches a step, two with three, three with two: the same steps."""
    tokens = realistic(150)
    rule = BatchRule(batch_size=2, batch_tokens=budget, packed=packed)
    plans = [
        plan(tokens, rule, accumulation=6 // processes, processes=processes, epochs=2.5)
        for processes in (1, 2, 3)
    ]
    assert len({planned.batches for planned in plans}) == 1
    for processes, planned in zip((1, 2, 3), plans, strict=True):
        shares = [planned.of_process(rank) for rank in range(processes)]
        merged = [batch for batches in zip(*shares, strict=True) for batch in batches]
        assert tuple(merged) == planned.batches


@pytest.mark.parametrize(
    "rule",
    [BatchRule(3), BatchRule(batch_tokens=2048), BatchRule(batch_tokens=2048, packed=True)],
)
def test_a_plan_depends_on_its_seed_and_each_pass_has_an_order_of_its_own(rule: BatchRule) -> None:
    tokens = realistic(90)
    planned = plan(tokens, rule, epochs=2, seed=5)
    assert planned == plan(tokens, rule, epochs=2, seed=5)
    assert planned.batches != plan(tokens, rule, epochs=2, seed=6).batches
    orders = [[row.sample for row in planned.rows if row.epoch == epoch] for epoch in (0, 1)]
    assert orders[0] != orders[1] != list(range(90))


def test_a_longer_plan_begins_as_the_shorter_one() -> None:
    """What a run does first does not depend on how long it is to be."""
    tokens, rule = realistic(60), BatchRule(batch_tokens=2048, packed=True)
    short, long = (plan(tokens, rule, steps=steps, accumulation=2) for steps in (7, 40))
    assert long.batches[: len(short.batches)] == short.batches


def test_packs_are_nearly_full_and_padded_rows_nearly_without_padding() -> None:
    tokens = realistic(3000)
    packed = plan(tokens, BatchRule(batch_tokens=4096, packed=True)).figures
    assert packed.fill is not None
    assert packed.fill >= 0.98
    assert packed.padding_share == 0
    padded = plan(tokens, BatchRule(batch_tokens=4096)).figures
    assert padded.padding_share < 0.06
    assert plan(tokens, BatchRule(6)).figures.padding_share > 0.3
    assert plan(tokens, BatchRule(6)).figures.fill is None


def test_batches_come_in_no_order_of_length() -> None:
    """Or the first steps would see long samples alone."""
    tokens = realistic(2000)
    planned = plan(tokens, BatchRule(batch_tokens=4096))
    means = [sum(tokens[row.sample] for row in b) / len(b) for b in planned.batches]
    half = len(means) // 2
    overall = sum(means) / len(means)
    assert abs(sum(means[:half]) / half - overall) < 0.1 * overall
    rising = sum(a < b for a, b in pairwise(means)) / len(means)
    assert rising == pytest.approx(0.5, abs=0.1)


def test_images_of_one_shape_go_together_in_padded_rows() -> None:
    """Equal lengths, half of them portraits: hardly a batch holds both."""
    aspects = [0.5, 2.0] * 400
    planned = plan_batches(
        range(800), [100] * 800, aspects, rule=BatchRule(batch_tokens=800), seed=0, epochs=1
    )
    mixed = sum(len({aspects[row.sample] for row in batch}) > 1 for batch in planned.batches)
    assert mixed <= 0.1 * len(planned.batches)


def test_a_batch_by_number_is_a_random_draw_of_one_size_across_passes() -> None:
    planned = plan(realistic(10), BatchRule(4), steps=5, accumulation=1)
    assert {len(batch) for batch in planned.batches} == {4}
    assert [row.epoch for row in planned.rows] == [0] * 10 + [1] * 10


def test_part_of_a_pass_is_a_random_part() -> None:
    planned = plan([100] * 100, BatchRule(1), epochs=0.25)
    drawn = {row.sample for row in planned.rows}
    assert len(drawn) == len(planned.rows) == 25
    assert drawn != set(range(25))


def test_a_sample_above_the_budget_goes_alone_and_is_told() -> None:
    planned = plan([5000, 100, 100, 100], BatchRule(batch_tokens=400, packed=True))
    assert planned.figures.oversized == 1
    assert planned.figures.longest == 5000
    assert sorted(len(batch) for batch in planned.batches) == [1, 3]
    assert [row.sample for row in planned.batches[planned.largest]] == [0]


@pytest.mark.parametrize(
    "rule", [BatchRule(4), BatchRule(batch_tokens=512), BatchRule(batch_tokens=512, packed=True)]
)
def test_a_single_sample_fills_a_step_with_muted_rows(rule: BatchRule) -> None:
    planned = plan([70], rule, accumulation=2, processes=2)
    assert planned.steps == 1
    assert [row.muted for batch in planned.batches for row in batch] == [False, True, True, True]
    assert len(plan([70], rule, epochs=0.01).rows) == 1


def test_a_sample_that_stands_twice_is_seen_twice_a_pass() -> None:
    planned = plan_batches([7, 8, 8], [10, 20, 20], [1.0] * 3, rule=BatchRule(2), seed=0, epochs=1)
    assert Counter(row.sample for row in planned.rows) == {7: 1, 8: 2}


def test_what_cannot_be_planned_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="without samples"):
        plan([], BatchRule(1))
    for settings in ({"steps": 1, "epochs": 1.0}, {"steps": None, "epochs": None}):
        with pytest.raises(ValueError, match="one of steps and epochs"):
            plan([10], BatchRule(1), **settings)


def test_a_hundred_thousand_samples_can_be_planned() -> None:
    """Seconds; with work that grows as the square it would not end."""
    planned = plan(realistic(100_000), BatchRule(batch_tokens=8192, packed=True))
    assert seen(planned) == once(100_000, 1)
