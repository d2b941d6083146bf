"""TEDS: tree-edit-distance similarity of two HTML tables."""

from vlmpipe.tasks.teds.aligned import aligned_distance
from vlmpipe.tasks.teds.score import (
    MAX_EXACT_WORK,
    edit_distance,
    teds,
    tree_similarity,
)

__all__ = [
    "MAX_EXACT_WORK",
    "aligned_distance",
    "edit_distance",
    "teds",
    "tree_similarity",
]
