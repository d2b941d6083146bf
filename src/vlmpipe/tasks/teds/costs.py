"""What it costs to rename one element of a table to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlmpipe.tasks.html_tables import Node

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Costs = npt.NDArray[np.float64]

MAX_CHARACTER_PAIRS = 3 * 10**10
"""Characters of all cells of one table times those of the other; they take 1 s in long cells, 3 s
in short ones. Beyond it contents that differ count as wholly different, which never flatters."""


def rename_cost(first: Node, second: Node) -> float:
    """1 for another tag or span, else the normalised edit distance of the contents."""
    from rapidfuzz.distance import Levenshtein

    if _label(first) != _label(second):
        return 1.0
    if first.content == second.content:
        return 0.0
    if len(first.content) * len(second.content) > MAX_CHARACTER_PAIRS:
        return 1.0
    return float(Levenshtein.normalized_distance(first.content, second.content))


def rename_costs(first: Sequence[Node], second: Sequence[Node]) -> Costs:
    """`rename_cost` of every pair: (nodes of first, nodes of second)."""
    import numpy as np

    labels = _Numbers()
    rows, columns = (np.array([labels[_label(node)] for node in side]) for side in (first, second))
    texts = _Numbers(), _Numbers()
    lines = np.array([texts[0][node.content] for node in first])
    others = np.array([texts[1][node.content] for node in second])
    contents = _text_costs(list(texts[0]), list(texts[1]))[lines[:, None], others]
    return np.where(rows[:, None] == columns, contents, 1.0)


def _text_costs(first: list[tuple[str, ...]], second: list[tuple[str, ...]]) -> Costs:
    import numpy as np
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    lengths = [np.array([len(text) for text in texts]) for texts in (first, second)]
    if int(lengths[0].sum()) * int(lengths[1].sum()) > MAX_CHARACTER_PAIRS:
        return np.array([[float(a != b) for b in second] for a in first])
    edits = cdist(first, second, scorer=Levenshtein.distance, dtype=np.int32)
    longest = np.maximum(lengths[0][:, None], lengths[1][None])
    costs: Costs = edits / np.maximum(longest, 1)
    return costs


def _label(node: Node) -> tuple[str, int, int]:
    return node.tag, node.colspan, node.rowspan


class _Numbers(dict[Any, int]):
    """Things numbered in the order of their first mention."""

    def __missing__(self, key: Any) -> int:
        self[key] = len(self)
        return self[key]
