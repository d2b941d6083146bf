"""Which samples are asked, where not all of them are."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from vlmpipe.evaluation.validation.drawing import drawn

splits = st.lists(st.sampled_from(["qa", "table", "chart"]), max_size=40)


def ids_of(tasks: list[str]) -> list[str]:
    return [f"{task}-{place}" for place, task in enumerate(tasks)]


def test_each_task_has_its_share():
    tasks = ["qa"] * 60 + ["table"] * 30 + ["chart"] * 10
    found = drawn(ids_of(tasks), tasks, 20)
    assert Counter(tasks[place] for place in found) == {"qa": 12, "table": 6, "chart": 2}


def test_the_first_few_are_shared_as_all_are():
    tasks = ["qa"] * 60 + ["table"] * 60
    found = [tasks[place] for place in drawn(ids_of(tasks), tasks, 16)]
    assert all(abs(2 * found[:n].count("qa") - n) <= 2 for n in range(1, 17))


def test_a_rare_task_has_one_seat():
    tasks = ["qa"] * 999 + ["table"]
    found = drawn(ids_of(tasks), tasks, 5)
    assert 999 in found
    assert len(found) == 5


def test_with_fewer_seats_than_tasks_the_largest_have_them():
    tasks = ["chart"] + ["qa"] * 3 + ["table"] * 2
    assert {tasks[place] for place in drawn(ids_of(tasks), tasks, 2)} == {"qa", "table"}


def test_a_sorted_file_is_not_asked_from_its_beginning():
    tasks = ["qa"] * 1000
    found = drawn(ids_of(tasks), tasks, 100)
    assert 35 <= sum(place < 500 for place in found) <= 65


@settings(max_examples=60, deadline=None)
@given(tasks=splits, count=st.integers(1, 50))
def test_every_draw_is_of_as_many_as_there_are_and_of_every_task_that_fits(tasks, count):
    found = drawn(ids_of(tasks), tasks, count)
    assert len(found) == len(set(found)) == min(count, len(tasks))
    seen = {tasks[place] for place in found}
    assert len(seen) == min(count, len(set(tasks)))


@settings(max_examples=30, deadline=None)
@given(tasks=splits, count=st.integers(1, 20), order=st.randoms())
def test_the_order_of_the_file_does_not_change_what_is_drawn(tasks, count, order):
    ids = ids_of(tasks)
    places = list(range(len(ids)))
    order.shuffle(places)
    first = {ids[place] for place in drawn(ids, tasks, count)}
    shuffled = [ids[place] for place in places], [tasks[place] for place in places]
    second = {shuffled[0][place] for place in drawn(*shuffled, count)}
    assert first == second
