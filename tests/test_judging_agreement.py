"""Shares, kappa and rank correlation against hand-worked and published values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from vlmpipe.cli.judge import shown
from vlmpipe.evaluation.judging.agreement import (
    cohens_kappa,
    kappas_of,
    share,
    share_over_cases,
    spearman,
)
from vlmpipe.evaluation.judging.pair_figures import agreement_of

LABELS = ("a", "tie", "b")


def pairs(*counted):
    found = [(one, other) for one, other, count in counted for _ in range(count)]
    return [one for one, _ in found], [other for _, other in found]


def test_kappa_of_the_textbook_table():
    # 20 both yes, 15 both no, 5 and 10 apart: seen 0.7, by chance 0.5.
    found = cohens_kappa(
        *pairs(("a", "a", 20), ("a", "b", 5), ("b", "a", 10), ("b", "b", 15)), ("a", "b")
    )
    assert found.value == pytest.approx(0.4)
    assert found.n == 50
    # The asymptotic error of Fleiss, Cohen and Everitt is 0.127 here.
    assert found.low == pytest.approx(0.4 - 1.96 * 0.127, abs=0.05)
    assert found.high == pytest.approx(0.4 + 1.96 * 0.127, abs=0.05)


def test_linear_weights_forgive_neighbours():
    # Worked by hand: costs 0, 1, 2; seen 2/4, by chance 12/16.
    raters = ["a", "a", "tie", "b"], ["a", "tie", "tie", "tie"]
    assert cohens_kappa(*raters, LABELS, "linear").value == pytest.approx(1 - (2 / 4) / (12 / 16))
    assert cohens_kappa(*raters, LABELS).value == pytest.approx(1 - (2 / 4) / (11 / 16))


def test_kappa_is_not_defined_where_both_give_one_same_label():
    found = cohens_kappa(["a"] * 12, ["a"] * 12, LABELS)
    assert (found.value, found.low, found.n) == (None, None, 12)
    assert cohens_kappa([], [], LABELS).value is None


@given(
    st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=2, max_size=40),
    st.sampled_from([None, "linear"]),
)
def test_the_interval_is_of_the_kappa_that_scikit_learn_computes(rated, weights):
    first, second = [one for one, _ in rated], [other for _, other in rated]
    matrix = np.zeros((3, 3))
    for one, other in rated:
        matrix[LABELS.index(one), LABELS.index(other)] += 1
    own = float(kappas_of(matrix, weights))
    if len(set(first) | set(second)) == 1:
        assert np.isnan(own)
        return
    theirs = cohen_kappa_score(first, second, labels=list(LABELS), weights=weights)
    assert own == pytest.approx(theirs)
    assert cohens_kappa(second, first, LABELS, weights).value == pytest.approx(theirs)


def test_wilson_interval_of_a_published_case():
    # Newcombe, Statistics in Medicine 17 (1998): 81 of 263 gives 0.2553 to 0.3662.
    found = share(81, 263)
    assert (found.low, found.high) == (
        pytest.approx(0.2553, abs=1e-4),
        pytest.approx(0.3662, abs=1e-4),
    )
    assert share(0, 0).value is None


def test_spearman_is_one_for_the_same_order_and_none_without_variation():
    assert spearman([1, 2, 3, 5], [10, 20, 30, 31]).value == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]).value == pytest.approx(-1)
    assert spearman([3, 3, 3], [1, 2, 3]).value is None
    assert spearman([], []).value is None


def test_spearman_has_an_interval_from_ten_pairs_on():
    first = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    second = [2, 1, 4, 3, 6, 5, 8, 7, 10, 9]
    found = spearman(first, second)
    # 1 - 6 * 10 / (10 * 99) by hand.
    assert found.value == pytest.approx(1 - 60 / 990)
    assert found.low < found.value < found.high < 1
    assert spearman(first[:9], second[:9]).low is None


def test_agreement_counts_ties_apart():
    found = agreement_of(
        [
            ("a", "a"),
            ("a", "b"),
            ("b", "b"),
            ("tie", "a"),
            ("b", "tie"),
            ("tie", "tie"),
            ("a", None),
        ],
        ("a", "b"),
    )
    assert (found.agree.value, found.agree.n) == (pytest.approx(2 / 3), 3)
    assert (found.first_ties, found.second_ties, found.both_tie, found.missing) == (1, 1, 1, 1)
    assert found.kappa.n == 6
    # Seen 3/6; by chance (2*2 + 2*2 + 2*2)/36.
    assert found.kappa.value == pytest.approx((1 / 2 - 1 / 3) / (1 - 1 / 3))


def test_a_share_over_cases_draws_cases_not_what_is_counted_within_them():
    found = share_over_cases([(2, 2)] * 10 + [(1, 2)] * 10 + [(0, 0)] * 5)
    assert (found.value, found.n) == (0.75, 20)
    # By hand: the mean of 20 values of 1 or 0.5 has the standard error 0.25 / sqrt(20).
    assert found.low == pytest.approx(0.75 - 1.96 * 0.25 / 20**0.5, abs=0.03)
    assert found.high == pytest.approx(0.75 + 1.96 * 0.25 / 20**0.5, abs=0.03)
    assert share_over_cases([(0, 0)]).value is None


def test_an_interval_of_one_point_is_none():
    point = share_over_cases([(1, 2)] * 20)
    assert (point.value, point.low, point.high) == (0.5, 0.5, 0.5)
    assert point.interval is None
    assert shown(point) == "0.50"
    assert share(1, 4).interval is not None
    assert shown(share(1, 4)) == "0.25 (0.05–0.70)"
