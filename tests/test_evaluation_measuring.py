"""Measuring in processes of their own: one answer's crash, hang or hunger is its own."""

from __future__ import annotations

import pytest

from hostile_measures import obey
from vlmpipe.evaluation.measuring import MetricPool
from vlmpipe.tasks import TASKS


@pytest.fixture(scope="module")
def pool():
    with MetricPool(1, timeout_s=3.0, measure=obey) as found:
        yield found


@pytest.mark.parametrize(
    ("prediction", "why"),
    [
        ("crash", "measuring it ended the process (SIGSEGV)"),
        ("raise", "measuring it failed: ValueError: no such atom"),
        ("eat", "measuring it failed: MemoryError"),
        pytest.param("hang", "measuring it took more than 3 s", marks=pytest.mark.slow),
    ],
)
def test_an_answer_that_cannot_be_measured_fails_alone(pool, prediction, why):
    before = pool.submit("qa", "a", "a")
    spoiled = pool.submit("qa", prediction, "a")
    after = pool.submit("qa", "a", "a")
    assert pool.measured("qa", before).metrics == {"exact_match": 1.0}
    found = pool.measured("qa", spoiled)
    assert found.unmeasured.startswith(why)
    assert found.metrics == {TASKS["qa"].primary_metric: 0.0}
    assert pool.measured("qa", after).metrics == {"exact_match": 1.0}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_pool_measures_as_the_task_does(task):
    sample = TASKS[task].generate(0, 1, (0.0, 0.4), ["en"])
    with MetricPool(1) as pool:
        found = pool.measure(task, sample.reference, sample.reference)
    assert found.unmeasured is None
    assert found.metrics == TASKS[task].measure(sample.reference, sample.reference)
    assert found.metrics[TASKS[task].primary_metric] == 1.0


def test_tasks_without_a_room_are_measured_as_text():
    with MetricPool(1) as pool:
        assert pool.measure("receipts", "12 $", "12 $").metrics["exact_match"] == 1.0
