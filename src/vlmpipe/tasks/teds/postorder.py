"""A tree as the edit distance wants it: its nodes in postorder, its keyroots in groups.

Zhang, Shasha: Simple fast algorithms for the editing distance between trees and related problems
(SIAM J. Comput. 18, 1989). A keyroot is the root or a node with a sibling before it; it stands for
all nodes that share its first leaf.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vlmpipe.tasks.html_tables import Node

Indices = npt.NDArray[np.intp]


@dataclass
class Postorder:
    """Nodes numbered from 0, children before parents, in the order of siblings or against it."""

    backwards: bool
    nodes: list[Node] = field(default_factory=list)
    first_leaf: list[int] = field(default_factory=list)
    """Of each node, the number of the first leaf below it; its own for a leaf."""

    keyroots: list[tuple[int, int]] = field(default_factory=list)
    """Number and height; keyroots of one height never lie within one another."""

    def __len__(self) -> int:
        return len(self.nodes)

    def groups(self) -> list[list[int]]:
        """All keyroots but leaves, those within others first.

        Subtrees of one group differ in size by less than 4 times: they are computed as if all were
        as large as the largest.
        """
        alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for keyroot, height in self.keyroots:
            size = self.size(keyroot)
            if size > 1:
                alike[height, size.bit_length() // 2].append(keyroot)
        return [alike[key] for key in sorted(alike)]

    def size(self, node: int) -> int:
        """Nodes from here down."""
        return node - self.first_leaf[node] + 1


def postorder(tree: Node, *, backwards: bool = False) -> Postorder:
    """The tree's nodes, numbered."""
    numbered = Postorder(backwards)
    height = _number(tree, numbered)
    numbered.keyroots.append((len(numbered) - 1, height))
    return numbered


def _number(node: Node, numbered: Postorder) -> int:
    """Number a subtree; the height of its root, were it a keyroot."""
    first_leaf, height = len(numbered), 0
    children = reversed(node.children) if numbered.backwards else node.children
    for place, child in enumerate(children):
        below = _number(child, numbered)
        if place > 0:
            numbered.keyroots.append((len(numbered) - 1, below))
            below += 1
        height = max(height, below)
    numbered.nodes.append(node)
    numbered.first_leaf.append(first_leaf)
    return height


@dataclass(frozen=True)
class Subtrees:
    """The subtrees of a group of keyroots, one a row, each array (keyroots, longest)."""

    nodes: Indices
    """Numbers of the nodes in postorder, the keyroot's again as padding."""

    before: Indices
    """How many nodes of the subtree come before the node's own first leaf."""

    on_path: npt.NDArray[np.bool_]
    """Whether the node has the subtree's first leaf below it; False for padding."""

    @property
    def longest(self) -> int:
        """Nodes of the largest subtree."""
        return int(self.nodes.shape[1])


def subtrees(tree: Postorder, keyroots: list[int]) -> Subtrees:
    """What lies below each of the keyroots, which do not overlap."""
    first_leaf = np.array(tree.first_leaf, dtype=np.intp)
    ends = np.array(keyroots, dtype=np.intp)[:, None]
    starts = first_leaf[ends]
    numbers = starts + np.arange(int((ends - starts).max()) + 1)
    nodes = np.minimum(numbers, ends)
    before = first_leaf[nodes] - starts
    return Subtrees(nodes, before, (before == 0) & (numbers <= ends))
