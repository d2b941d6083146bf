"""Intervals and paired tests: known answers, coverage, and what cannot be known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmpipe.evaluation.statistics import (
    Interval,
    compare_paired,
    mean_interval,
    ratio_interval,
)

NUMBERS = st.floats(-100, 100)


def test_one_value_has_no_interval():
    assert mean_interval([0.5]) is None
    assert mean_interval([]) is None


def test_equal_values_have_no_width():
    assert mean_interval([0.25] * 9) == Interval(0.25, 0.25)


def test_what_is_no_number_has_no_interval():
    assert mean_interval([0.1, math.nan]) is None
    assert ratio_interval([1.0, math.inf], [1.0, 1.0]) is None


def test_the_interval_is_near_the_normal_one_where_that_is_right():
    values = np.random.default_rng(5).normal(10, 2, 400)
    found = mean_interval(list(values))
    half = 1.96 * values.std(ddof=1) / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_the_interval_holds_the_truth_about_nineteen_times_in_twenty():
    generator = np.random.default_rng(11)
    found = [mean_interval(list(generator.normal(0, 1, 40))) for _ in range(100)]
    assert 88 <= sum(each.low <= 0 <= each.high for each in found) <= 100


@given(st.lists(NUMBERS, min_size=2, max_size=12))
@settings(max_examples=15, deadline=None)
def test_the_interval_lies_within_the_values(values):
    found = mean_interval(values)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_the_same_values_give_the_same_interval():
    values = list(np.random.default_rng(2).random(30))
    assert mean_interval(values) == mean_interval(values)


def test_a_loss_over_tokens_is_weighed_by_them():
    # Losses 1 and 3 nats a token of answers of 30 and 10 tokens: (30 + 30) / 40.
    found = ratio_interval([30.0, 30.0], [30.0, 10.0])
    assert (found.low, found.high) == (1.0, 3.0)


def test_an_exact_permutation_test_by_hand():
    # Five samples all better by the same: 2 of 32 sign choices are as extreme.
    found = compare_paired([0.0] * 5, [0.1] * 5)
    assert found.difference == pytest.approx(0.1)
    assert found.p_value == pytest.approx(2 / 32)
    assert not found.significant


def test_eight_clear_wins_are_significant():
    found = compare_paired([0.0] * 8, [0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.1, 0.2])
    assert found.p_value == pytest.approx(2 / 256)
    assert found.significant


def test_the_same_system_does_not_differ_from_itself():
    values = [0.1, 0.9, 0.4]
    found = compare_paired(values, values)
    assert (found.difference, found.p_value, found.significant) == (0.0, 1.0, False)
    assert found.interval == Interval(0.0, 0.0)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=8))
@settings(max_examples=15, deadline=None)
def test_the_other_way_round_is_the_same_with_the_sign_turned(pairs):
    first, second = [list(each) for each in zip(*pairs, strict=True)]
    there, back = compare_paired(first, second), compare_paired(second, first)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p_value == pytest.approx(back.p_value)
    assert 0 < there.p_value <= 1


def test_chance_alone_is_seldom_significant():
    generator = np.random.default_rng(7)
    found = [
        compare_paired(list(generator.random(30)), list(generator.random(30))).significant
        for _ in range(60)
    ]
    assert sum(found) <= 9


def test_nothing_in_common_is_no_difference():
    found = compare_paired([], [])
    assert found.samples == 0
    assert math.isnan(found.difference)
    assert found.p_value is None


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="1 values cannot be paired with 2"):
        compare_paired([1.0], [1.0, 2.0])
