"""The over-fit gap and its interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation_fakes import colour_sample, compared
from vlmpipe.evaluation.validation.overfit import difference_interval, overfit_gaps

values = st.lists(st.floats(0, 1), min_size=2, max_size=12)


def test_gap_is_training_minus_heldout_with_both_counts():
    train = [colour_sample(str(n), f"#0000{n:02x}", "right") for n in range(4)]
    heldout = [colour_sample(str(n), f"#ff00{n:02x}", "right") for n in range(4)]
    answers = {"#ff0000": "right", **{f"#0000{n:02x}": "right" for n in range(4)}}
    [gap] = overfit_gaps(compared(answers, {"train": train, "heldout": heldout})).values()
    assert gap is not None
    assert (gap.train, gap.heldout) == (1.0, pytest.approx(0.25, abs=0.2))
    assert gap.counts == "4 and 4 samples"
    assert gap.interval.low < gap.value < gap.interval.high


def test_nothing_held_out_leaves_no_gap():
    train = [colour_sample("a", "#0000ff", "right")]
    assert overfit_gaps(compared({}, {"train": train, "heldout": []})) == {"qa": None}


def test_each_task_has_its_gap_in_its_own_metric():
    """Learned by heart in one task and not in the other: a mean of both would hide it."""
    table = "<table><tr><td>a</td></tr></table>"
    splits = {
        split: [
            *(colour_sample(f"q{n}", f"#{red}000{n:x}", "right") for n in range(2)),
            *(colour_sample(f"t{n}", f"#{red}00f{n:x}", table, "table") for n in range(2)),
        ]
        for split, red in (("train", "00"), ("heldout", "ff"))
    }
    answers = {f"#{red}000{n:x}": "right" for red in ("00", "ff") for n in range(2)}
    answers |= {f"#0000f{n:x}": table for n in range(2)}
    gaps = overfit_gaps(compared(answers, splits))
    assert (gaps["qa"].metric, gaps["qa"].value) == ("agreement", 0.0)
    assert (gaps["table"].metric, gaps["table"].value) == ("teds", 1.0)


def test_one_value_on_a_side_has_no_interval():
    assert difference_interval([1.0], [0.0, 0.5]) is None


def test_constant_sides_differ_by_exactly_that():
    interval = difference_interval([1.0, 1.0, 1.0], [0.25, 0.25])
    assert (interval.low, interval.high) == (0.75, 0.75)


def test_interval_of_known_normals_is_near_the_textbook_s():
    """1.96 standard errors of a difference of means, on samples large enough for it."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.8, 0.1, 200), rng.normal(0.5, 0.2, 150)
    interval = difference_interval(list(a), list(b))
    error = 1.96 * np.sqrt(a.var(ddof=1) / 200 + b.var(ddof=1) / 150)
    middle = a.mean() - b.mean()
    assert interval.low == pytest.approx(middle - error, abs=0.005)
    assert interval.high == pytest.approx(middle + error, abs=0.005)


@settings(max_examples=12, deadline=None)
@given(first=values, second=values)
def test_interval_lies_between_the_furthest_gaps_and_turns_with_the_sides(first, second):
    interval = difference_interval(first, second)
    assert min(first) - max(second) - 1e-9 <= interval.low
    assert interval.low <= interval.high <= max(first) - min(second) + 1e-9
