"""TEDS: tree-edit-distance similarity of two HTML tables.

Zhong, ShafieiBavani, Jimeno Yepes: Image-based table recognition: data, model, and evaluation
(ECCV 2020). A node inserted, deleted, or renamed to another tag or span costs 1; a cell whose text
differs costs the normalised edit distance of the two texts; the score is 1 - cost / nodes of the
larger tree.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmpipe.tasks.html_tables import Node, TableError, parse_table

MAX_EXACT_PAIRS = 100_000
"""Nodes of one tree times nodes of the other (two tables of about 300 cells take some 2 s). Beyond
it `aligned_distance` stands in for the exact distance: never less, so it never flatters."""


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
    """1 - distance / nodes of the larger tree."""
    if first == second:
        return 1.0
    sizes = first.size, second.size
    exact = sizes[0] * sizes[1] <= MAX_EXACT_PAIRS
    distance = edit_distance(first, second) if exact else aligned_distance(first, second)
    return max(0.0, 1.0 - distance / max(sizes))


def edit_distance(first: Node, second: Node) -> float:
    """Exact tree edit distance, by APTED; more than cubic in the number of nodes."""
    from apted import APTED, Config

    # APTED asks for the same pair about seven times.
    known: dict[tuple[int, int], float] = {}

    class Costs(Config):  # type: ignore[misc]  # apted has no types
        def rename(self, node1: Node, node2: Node) -> float:
            pair = id(node1), id(node2)
            if pair not in known:
                known[pair] = rename_cost(node1, node2)
            return known[pair]

        def children(self, node: Node) -> tuple[Node, ...]:
            return node.children

    return float(APTED(first, second, Costs()).compute_edit_distance())


def aligned_distance(first: Node, second: Node) -> float:
    """An upper bound of the tree edit distance, in little more than linear time.

    Sections (`thead`, `tbody`) are compared one by one where both tables have the same ones, else
    all rows together. Rows are aligned as lines are in a text comparison; a changed row is compared
    cell by cell in position. Whatever has no partner counts as deleted or inserted.
    """
    tags = [child.tag for child in first.children]
    if tags == [child.tag for child in second.children] and "tr" not in tags:
        pairs = zip(first.children, second.children, strict=True)
        return sum(_section_distance(a, b) for a, b in pairs)
    return _section_distance(first, second)


def _section_distance(first: Node, second: Node) -> float:
    """Distance of two elements that correspond, through their rows."""
    from rapidfuzz.distance import Levenshtein

    rows, others = first.rows(), second.rows()
    distance = float(_nodes_around(first, rows) + _nodes_around(second, others))
    for edit in Levenshtein.editops(rows, others):
        if edit.tag == "replace":
            distance += _row_distance(rows[edit.src_pos], others[edit.dest_pos])
        elif edit.tag == "delete":
            distance += rows[edit.src_pos].size
        else:
            distance += others[edit.dest_pos].size
    return distance


def _nodes_around(element: Node, rows: Sequence[Node]) -> int:
    return element.size - 1 - sum(row.size for row in rows)


def _row_distance(first: Node, second: Node) -> float:
    pairs = list(zip(first.children, second.children, strict=False))
    changed = sum(0.0 if a == b else _in_place(a, b) for a, b in pairs)
    left_over = (*first.children[len(pairs) :], *second.children[len(pairs) :])
    return changed + sum(node.size for node in left_over)


def _in_place(first: Node, second: Node) -> float:
    if first.children or second.children:
        return float(first.size + second.size)
    return rename_cost(first, second)


def rename_cost(first: Node, second: Node) -> float:
    """1 for another tag or span, else the normalised edit distance of the contents."""
    from rapidfuzz.distance import Levenshtein

    if (first.tag, first.colspan, first.rowspan) != (second.tag, second.colspan, second.rowspan):
        return 1.0
    return float(Levenshtein.normalized_distance(first.content, second.content))
