"""TEDS: tree-edit-distance similarity of two HTML tables.

Zhong, ShafieiBavani, Jimeno Yepes: Image-based table recognition: data, model, and evaluation
(ECCV 2020). A node inserted, deleted, or renamed to another tag or span costs 1; a cell whose text
differs costs the normalised edit distance of the two texts; the score is 1 - cost / nodes of the
larger tree.
"""

from __future__ import annotations

from vlmpipe.tasks.html_tables import Node, TableError, parse_table
from vlmpipe.tasks.teds.aligned import aligned_distance

MAX_EXACT_WORK = 40_000_000
"""Values that the exact distance may compute (two tables of some 1,800 cells; a second). Beyond it
`aligned_distance` stands in for the exact distance: never less, so it never flatters."""


def teds(prediction: str, reference: str, *, structure_only: bool = False) -> float:
    """Similarity of the first table of each text, 0 to 1; 1 for equal tables.

    0.0 where either text holds no comparable table: blank, without a `<table>`, with a span that
    is not a number. `structure_only` ignores what stands in the cells (TEDS-S).
    """
    try:
        trees = parse_table(prediction), parse_table(reference)
    except TableError:
        return 0.0
    if structure_only:
        trees = trees[0].without_content(), trees[1].without_content()
    return tree_similarity(*trees)


def tree_similarity(first: Node, second: Node) -> float:
    """1 - distance / nodes of the larger tree, not below 0."""
    if first == second:
        return 1.0
    distance = edit_distance(first, second)
    if distance is None:
        distance = aligned_distance(first, second)
    return max(0.0, 1.0 - distance / max(first.size, second.size))


def edit_distance(first: Node, second: Node) -> float | None:
    """Exact tree edit distance; None where it would take more than `MAX_EXACT_WORK`."""
    from vlmpipe.tasks.teds.costs import rename_costs
    from vlmpipe.tasks.teds.postorder import postorder
    from vlmpipe.tasks.teds.zhang_shasha import distance_work, tree_distance

    backwards = _heavier_at_the_end(first)
    trees = postorder(first, backwards=backwards), postorder(second, backwards=backwards)
    if distance_work(*trees) > MAX_EXACT_WORK:
        return None
    return tree_distance(*trees, rename_costs(trees[0].nodes, trees[1].nodes))


def _heavier_at_the_end(tree: Node) -> bool:
    """Whether to number from the last sibling: the less work, the larger its first child is.

    A short `thead` comes before a long `tbody`. Both directions give the same distance.
    """
    return len(tree.children) > 1 and tree.children[-1].size > tree.children[0].size
