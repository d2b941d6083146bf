"""Drawing until one fits."""

import itertools

from vlmpipe.tasks.lots import nearest, outside


def test_the_first_that_fits_is_taken_and_nothing_more_is_drawn():
    drawn = itertools.count()
    assert nearest(lambda: next(drawn), lambda n: outside(n, (3, 5)), attempts=20) == 3
    assert next(drawn) == 4


def test_where_none_fits_the_nearest_is_taken_and_the_earliest_of_equals():
    drawn = iter([(9, "a"), (7, "b"), (1, "c"), (7, "d")])
    assert nearest(lambda: next(drawn), lambda pair: outside(pair[0], (3, 5)), 3) == (7, "b")
    assert next(drawn, None) is None


def test_distance_is_measured_to_the_nearer_end():
    assert outside(0.1, (0.25, 0.5)) == 0.15
    assert outside(0.75, (0.25, 0.5)) == 0.25
    assert outside(0.5, (0.25, 0.5)) == 0
