"""The tree edit distance against APTED, on every small tree and on many larger ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product

import pytest
from apted import APTED, Config
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmpipe.tasks.html_tables import Node
from vlmpipe.tasks.teds import MAX_EXACT_WORK, edit_distance
from vlmpipe.tasks.teds.aligned import aligned_distance
from vlmpipe.tasks.teds.costs import rename_cost, rename_costs
from vlmpipe.tasks.teds.postorder import postorder
from vlmpipe.tasks.teds.zhang_shasha import distance_work, tree_distance

CONTENTS = ((), ("x",), ("x", "y"), ("x", "<b>", "z", "</b>"), ("가", "<b>"))


class Costs(Config):  # type: ignore[misc]  # apted has no types
    """A table's costs as APTED asks for them."""

    def rename(self, node1: Node, node2: Node) -> float:
        return rename_cost(node1, node2)

    def children(self, node: Node) -> tuple[Node, ...]:
        return node.children


def by_apted(first: Node, second: Node) -> float:
    return float(APTED(first, second, Costs()).compute_edit_distance())


def both_ways(first: Node, second: Node) -> tuple[float, float]:
    """Our distance, the siblings numbered from the first and from the last."""
    found = []
    for backwards in (False, True):
        trees = [postorder(tree, backwards=backwards) for tree in (first, second)]
        costs = rename_costs(trees[0].nodes, trees[1].nodes)
        found.append(tree_distance(trees[0], trees[1], costs))
    return found[0], found[1]


def forests(nodes: int) -> Iterator[tuple[Node, ...]]:
    """Every ordered forest of so many nodes, all with one tag."""
    if nodes == 0:
        yield ()
    for below in range(nodes):
        for children, others in product(forests(below), forests(nodes - 1 - below)):
            yield (Node("a", children=children), *others)


def trees(most: int) -> list[Node]:
    found = [tree for nodes in range(1, most + 1) for tree in forests(nodes)]
    return [tree[0] for tree in found if len(tree) == 1]


def marked(tree: Node, tags: Iterator[str]) -> Node:
    tag = next(tags)
    return Node(tag, children=tuple(marked(child, tags) for child in tree.children))


def random_tree(rng: random.Random, nodes: int) -> Node:
    """Cells and other elements in any order and depth, which no HTML would have."""
    rest, children = nodes - 1, []
    while rest:
        size = rng.randint(1, rest)
        children.append(random_tree(rng, size))
        rest -= size
    tag = rng.choice(("td", "td", "tr"))
    if children or tag == "tr":
        return Node(tag, children=tuple(children))
    return Node(tag, rng.choice((1, 1, 2)), rng.choice((1, 1, 1, 3)), rng.choice(CONTENTS))


def random_trees(count: int, most: int, seed: int) -> list[tuple[Node, Node]]:
    rng = random.Random(seed)
    return [
        (random_tree(rng, rng.randint(1, most)), random_tree(rng, rng.randint(1, most)))
        for _ in range(count)
    ]


def test_every_pair_of_shapes_up_to_five_nodes() -> None:
    shapes = trees(5)
    assert len(shapes) == 1 + 1 + 2 + 5 + 14
    for first, second in product(shapes, shapes):
        assert set(both_ways(first, second)) == {by_apted(first, second)}


def test_every_pair_of_trees_up_to_three_nodes_with_two_tags() -> None:
    labelled = [
        marked(shape, iter(tags)) for shape in trees(3) for tags in product("ab", repeat=shape.size)
    ]
    assert len(labelled) == 2 + 4 + 16
    for first, second in product(labelled, labelled):
        assert set(both_ways(first, second)) == {by_apted(first, second)}


def test_random_trees() -> None:
    for first, second in random_trees(120, 12, seed=1):
        expected = pytest.approx(by_apted(first, second), abs=1e-9)
        assert both_ways(first, second) == (expected, expected)
        assert edit_distance(first, second) == expected


@pytest.mark.slow
def test_larger_random_trees() -> None:
    for first, second in random_trees(25, 70, seed=2):
        expected = pytest.approx(by_apted(first, second), abs=1e-9)
        assert both_ways(first, second) == (expected, expected)


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 12), st.integers(1, 12))
def test_a_distance_is_a_distance(rng: random.Random, size: int, other: int) -> None:
    a, b, c = random_tree(rng, size), random_tree(rng, other), random_tree(rng, size)
    there, back = edit_distance(a, b), edit_distance(b, a)
    assert there is not None
    assert there == pytest.approx(back)
    assert edit_distance(a, a) == 0.0
    assert abs(size - other) - 1e-9 <= there <= size + other
    assert there <= (edit_distance(a, c) or 0.0) + (edit_distance(c, b) or 0.0) + 1e-9


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 12), st.integers(1, 12))
def test_the_stand_in_for_large_tables_is_never_less(
    rng: random.Random, size: int, other: int
) -> None:
    a, b = (
        Node("table", children=(random_tree(rng, n), random_tree(rng, n))) for n in (size, other)
    )
    exact = edit_distance(a, b)
    assert exact is not None
    assert aligned_distance(a, b) >= exact - 1e-9


def test_the_stand_in_compares_cells_outside_of_rows() -> None:
    tables = [Node("table", children=(Node("td", content=(text,)),)) for text in "ab"]
    assert aligned_distance(*tables) == edit_distance(*tables) == 1.0


def test_costs_of_all_pairs_are_those_of_each_pair() -> None:
    nodes = [
        Node(tag, colspan, rowspan, content)
        for tag, colspan, rowspan in product(("td", "th"), (1, 2), (1, 3))
        for content in CONTENTS
    ]
    costs = rename_costs(nodes, nodes[::-1])
    for (row, first), (column, second) in product(enumerate(nodes), enumerate(nodes[::-1])):
        assert costs[row, column] == rename_cost(first, second)
        assert costs[row, column] == costs[len(nodes) - 1 - column, len(nodes) - 1 - row]


def test_contents_too_long_to_compare_count_as_wholly_different(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = [Node("td", content=tuple(text)) for text in ("abcd", "abcx", "")]
    assert rename_costs(cells, cells)[0, 1] == rename_cost(cells[0], cells[1]) == 0.25
    monkeypatch.setattr("vlmpipe.tasks.teds.costs.MAX_CHARACTER_PAIRS", 8)
    assert rename_costs(cells, cells).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert rename_cost(cells[0], cells[1]) == 1.0
    assert rename_cost(cells[0], cells[0]) == 0.0


def test_work_is_known_before_it_is_done() -> None:
    wide = Node("table", children=(Node("tr", children=(Node("td"),) * 9),) * 2000)
    assert distance_work(postorder(wide), postorder(wide)) > MAX_EXACT_WORK
    assert edit_distance(wide, wide) is None
    one = Node("table")
    assert edit_distance(one, wide) == wide.size - 1
