"""An upper bound of the tree edit distance, for tables too large for the exact one."""

from __future__ import annotations

from collections.abc import Sequence

from vlmpipe.tasks.html_tables import Node
from vlmpipe.tasks.teds.costs import rename_cost


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
    distance = rename_cost(first, second)
    distance += _nodes_around(first, rows) + _nodes_around(second, others)
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
