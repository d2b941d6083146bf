"""The tree edit distance of Zhang and Shasha, many forests at a time.

Nodes deleted or inserted cost 1. Their recurrence for the forests of two keyroots reads, for nodes
i and j, with l(i) the first leaf below i and d the distance of two subtrees:

    f[i, j] = min(f[i-1, j] + 1, f[i, j-1] + 1, f[i-1, j-1] + rename[i, j]) = d[i, j]
        where i and j share the first leaves of their keyroots;
    f[i, j] = min(f[i-1, j] + 1, f[i, j-1] + 1, f[l(i)-1, l(j)-1] + d[i, j])
        otherwise.

All pairs of two groups of keyroots go through it together, row by row. The middle term, which
refers to its own row, becomes a running minimum of f[i, j] - j, for every insertion costs the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vlmpipe.tasks.teds.postorder import Postorder, Subtrees, subtrees

Costs = npt.NDArray[np.float64]

STEP_WORK = 2000
"""A row of a pair of groups takes as long as so many values, however short it is."""


def distance_work(first: Postorder, second: Postorder) -> int:
    """How long `tree_distance` takes and how much it holds, in values: 4e7 are about a second and
    300 MB.
    """
    sides = [
        [(len(group), max(map(tree.size, group)) + 1) for group in tree.groups()]
        for tree in (first, second)
    ]
    rows, columns = (sum(count * longest for count, longest in side) for side in sides)
    steps = sum(min(a, b) for _, a in sides[0] for _, b in sides[1])
    return rows * columns + 4 * len(first) * len(second) + STEP_WORK * steps


def tree_distance(first: Postorder, second: Postorder, rename: Costs) -> float:
    """Exact edit distance of two trees numbered in the same direction.

    `rename` (nodes of first, nodes of second) holds the costs of renaming, each from 0 to 2.
    """
    distances = np.full(rename.shape, np.inf)
    _fill_leaves(distances, rename, first, second)
    _fill_leaves(distances.T, rename.T, second, first)
    columns = [subtrees(second, group) for group in second.groups()]
    for group in first.groups():
        rows = subtrees(first, group)
        for other in columns:
            if rows.longest <= other.longest:
                _fill(distances, rename, rows, other)
            else:
                _fill(distances.T, rename.T, other, rows)
    return float(distances[-1, -1])


def _fill_leaves(distances: Costs, rename: Costs, first: Postorder, second: Postorder) -> None:
    """A leaf becomes whichever node of the other subtree is cheapest; the rest is inserted."""
    leaves = np.flatnonzero(np.array(first.first_leaf) == np.arange(len(first)))
    starts, ends = np.array(second.first_leaf), np.arange(1, len(second) + 1)
    bounds = np.stack([starts, ends], axis=1).ravel()
    # The last end must be a column too.
    padded = np.pad(rename[leaves], ((0, 0), (0, 1)))
    cheapest = np.minimum.reduceat(padded, bounds, axis=1)[:, ::2]
    distances[leaves] = cheapest + (ends - starts - 1)


def _fill(distances: Costs, rename: Costs, rows: Subtrees, columns: Subtrees) -> None:
    """Subtree distances of all keyroots of two groups, those within them being known."""
    count, others, width = len(rows.nodes), len(columns.nodes), columns.longest + 1
    forests = np.empty((rows.longest + 1, count, others, width))
    forests[0] = inserted = np.arange(width, dtype=np.float64)
    everywhere = np.arange(count)[:, None, None], np.arange(others)[:, None], columns.before
    other, place = np.nonzero(columns.on_path)
    for step in range(rows.longest):
        last, row = forests[step], forests[step + 1]
        nodes = rows.nodes[:, step, None, None]
        best = forests[(rows.before[:, step, None, None], *everywhere)]
        best += distances[nodes, columns.nodes]
        on_path = np.flatnonzero(rows.on_path[:, step])[:, None]
        pairs = rows.nodes[on_path, step], columns.nodes[other, place]
        if on_path.size:
            best[on_path, other, place] = last[on_path, other, place] + rename[pairs]
        np.add(last, 1.0, out=row)
        np.minimum(row[..., 1:], best, out=row[..., 1:])
        row -= inserted
        np.minimum.accumulate(row, axis=-1, out=row)
        row += inserted
        if on_path.size:
            distances[pairs] = row[on_path, other, place + 1]
