"""How many fields of a form were read right."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmpipe.tasks.document.claim import CRITICAL_FIELDS, CRITICAL_ITEM_FIELDS, MAX_ITEMS
from vlmpipe.tasks.document.reading import normalised_object, read_object

Fields = Mapping[str, str]
"""Field to value, as JSON text: equal texts are equal values of the same type."""


@dataclass(frozen=True)
class FieldScores:
    """Fields of the reference, those of them that are right, and fields nobody asked for."""

    asked: int
    right: int
    invented: int
    critical: int
    critical_right: int

    @property
    def accuracy(self) -> float:
        """Right ones of those asked for and those made up; 0.0 where there are none."""
        return self.right / max(1, self.asked + self.invented)

    @property
    def critical_accuracy(self) -> float | None:
        """Right ones of the critical fields; None for a reference without any."""
        return self.critical_right / self.critical if self.critical else None


def compare_fields(prediction: str, reference: str) -> FieldScores:
    """Field by field, each value in the one form of its field.

    Items are aligned in order so that the most fields agree: one left out costs its own fields and
    not those of all that follow. Every field of a superfluous item counts as made up.
    """
    asked, items = _parts(reference)
    given, given_items = _parts(prediction)
    right = {name for name, value in asked.items() if given.get(name) == value}
    items_right, items_critical_right = _aligned(given_items, items)
    critical_items = sum(len(CRITICAL_ITEM_FIELDS & set(item)) for item in items)
    return FieldScores(
        asked=len(asked) + _count(items),
        right=len(right) + items_right,
        invented=len(given.keys() - asked.keys()) + max(0, _count(given_items) - _count(items)),
        critical=len(asked.keys() & CRITICAL_FIELDS) + critical_items,
        critical_right=len(right & CRITICAL_FIELDS) + items_critical_right,
    )


def hardness(reference: str) -> float:
    """0 for two short fields, 1 for 54 fields with 350 characters and a dozen items among them.

    Text without a JSON object counts by its length.
    """
    fields, items = _parts(reference)
    values = [value for part in (fields, *items) for value in part.values()]
    characters = sum(map(len, values)) if values else len(reference)
    return round(
        0.5 * _share(len(values), low=3, high=54)
        + 0.4 * _share(characters, low=45, high=350)
        + 0.1 * min(1.0, len(items) / 12),
        6,
    )


def _share(value: float, low: float, high: float) -> float:
    """Where `value` stands between `low` (0) and `high` (1), on a logarithmic scale."""
    return max(0.0, min(1.0, math.log(max(value, low) / low) / math.log(high / low)))


def _parts(answer: str) -> tuple[Fields, list[Fields]]:
    """Fields outside and inside of items; nothing for an answer without a JSON object."""
    found = normalised_object(read_object(answer) or {})
    items = found.pop("items", [])
    listed = items if isinstance(items, list) else [items]
    # What is no object has the one field "", which no reference has.
    return _fields(found), [_fields(item if isinstance(item, dict) else {"": 0}) for item in listed]


def _fields(found: Mapping[str, object]) -> Fields:
    return {name: _text(value) for name, value in found.items() if value is not None}


def _text(value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    except RecursionError:
        return "nested too deep"


def _count(items: Sequence[Fields]) -> int:
    return sum(map(len, items))


def _aligned(given: Sequence[Fields], asked: Sequence[Fields]) -> tuple[int, int]:
    """Fields, and critical fields, that agree in the best alignment in order (Needleman-Wunsch)."""
    given, asked = given[:MAX_ITEMS], asked[:MAX_ITEMS]
    best = [(0, 0)] * (len(asked) + 1)
    for one in given:
        row = [(0, 0)]
        for place, other in enumerate(asked):
            same = {name for name in other if one.get(name) == other[name]}
            right, critical = best[place]
            paired = right + len(same), critical + len(same & CRITICAL_ITEM_FIELDS)
            row.append(max(paired, best[place + 1], row[place]))
        best = row
    return best[-1]
