"""JSON as a tree that knows how many fields it has, and which of them are critical."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vlmpipe.tasks.document.claim import CRITICAL_FIELDS, CRITICAL_ITEM_FIELDS

Path = tuple[str, ...]
"""Names of the objects around a value and its own; the entries of a list have none."""


@dataclass(frozen=True)
class Node:
    """An object (`members`), a list (`entries`) or a value (`text`); one of them is not None."""

    members: Mapping[str, Node] | None
    entries: tuple[Node, ...] | None
    text: str | None
    """JSON text: `1`, `1.0`, `"1"` and `true` are four values."""

    fields: int
    """Values in it, at any depth."""

    critical: int
    """Those of them that are critical."""

    size: int
    """Objects, lists and values in it, itself included."""


def node_of(value: object, path: Path = ()) -> Node:
    """The tree of a JSON value; as deep as it is nested, which `read_json` bounds."""
    if isinstance(value, dict):
        members = {name: node_of(each, (*path, name)) for name, each in value.items()}
        return Node(members, None, None, *_counts(members.values()))
    if isinstance(value, list):
        entries = tuple(node_of(each, path) for each in value)
        return Node(None, entries, None, *_counts(entries))
    text = json.dumps(value, ensure_ascii=False)
    return Node(None, None, text, 1, int(_is_critical(path)), 1)


def _counts(inner: Collection[Node]) -> tuple[int, int, int]:
    fields = sum(each.fields for each in inner)
    critical = sum(each.critical for each in inner)
    return fields, critical, 1 + sum(each.size for each in inner)


def _is_critical(path: Path) -> bool:
    if len(path) == 1:
        return path[0] in CRITICAL_FIELDS
    return len(path) == 2 and path[0] == "items" and path[1] in CRITICAL_ITEM_FIELDS
