"""How many fields of a form were read right."""

from __future__ import annotations

import math
from collections.abc import Iterator

from vlmpipe.tasks.document.anls import anls_star
from vlmpipe.tasks.document.comparing import Tally, compare
from vlmpipe.tasks.document.nodes import Node, node_of
from vlmpipe.tasks.document.reading import (
    Json,
    fits_schema,
    normalised_json,
    read_answer,
    read_json,
)
from vlmpipe.tasks.text_metrics import exact_match

CRITICAL_WEIGHT = 3
"""What a critical field counts for in `field_accuracy_weighted`, where another counts 1."""


def document_metrics(prediction: str, reference: str) -> dict[str, float]:
    """How the answer reads as JSON, and how many of its fields are right.

    Of strict JSON alone: `field_accuracy`, `field_accuracy_weighted`, `critical_accuracy`; of
    strict or else repaired JSON: `field_accuracy_repaired`, `hallucinated`, `missing`, `anls_star`.
    What a reference gives no ground to measure is left out: fields of one without any, critical
    ones of one without those, `schema_valid` of one that does not fit the schema itself.
    """
    answer, truth = read_answer(prediction), read_json(reference)
    read = {"valid_json": float(answer.strict is not None)}
    read["repaired"] = float(answer.repaired is not None)
    if truth is not None and fits_schema(truth):
        read["schema_valid"] = float(answer.strict is not None and fits_schema(answer.strict))
    asked = _tree(truth or {})
    if truth is None or not asked.fields:
        return {**_as_text(prediction, reference), **read}
    strict = compare(_tree(answer.strict or {}), asked)
    either = compare(_tree(answer.repaired), asked) if answer.repaired else strict
    likeness = anls_star(answer.either, truth)
    return {
        **_strict_metrics(strict),
        **read,
        "field_accuracy_repaired": accuracy(either),
        "hallucinated": either.invented / max(1, either.given),
        "missing": either.missing / either.asked,
        **({} if likeness is None else {"anls_star": likeness}),
    }


def accuracy(tally: Tally, weight: int = 1) -> float:
    """Right fields of those asked for and those made up; critical ones count `weight` times."""
    extra = weight - 1
    right = tally.right + extra * tally.critical_right
    of = tally.asked + tally.invented + extra * (tally.critical + tally.critical_invented)
    return right / max(1, of)


def hardness(reference: str) -> float:
    """0 for two short fields, 1 for 54 fields with 350 characters and a dozen items among them.

    Text without a JSON object counts by its length.
    """
    found = normalised_json(read_json(reference) or {})
    texts = list(_texts(node_of(found)))
    characters = sum(map(len, texts)) if texts else len(reference)
    items = found.get("items") if isinstance(found, dict) else None
    return round(
        0.5 * _share(len(texts), low=3, high=54)
        + 0.4 * _share(characters, low=45, high=350)
        + 0.1 * min(1.0, len(items) / 12 if isinstance(items, list) else 0.0),
        6,
    )


def _as_text(prediction: str, reference: str) -> dict[str, float]:
    """A reference without any field can only be matched as a whole."""
    same = exact_match(prediction, reference)
    return {"field_accuracy": same, "field_accuracy_repaired": same}


def _strict_metrics(tally: Tally) -> dict[str, float]:
    found = {"field_accuracy": accuracy(tally)}
    if tally.critical:
        found["field_accuracy_weighted"] = accuracy(tally, CRITICAL_WEIGHT)
        found["critical_accuracy"] = tally.critical_right / tally.critical
    return found


def _tree(found: Json) -> Node:
    return node_of(normalised_json(found))


def _texts(node: Node) -> Iterator[str]:
    if node.text is not None:
        yield node.text
    for each in (*(node.members or {}).values(), *(node.entries or ())):
        yield from _texts(each)


def _share(value: float, low: float, high: float) -> float:
    """Where `value` stands between `low` (0) and `high` (1), on a logarithmic scale."""
    return max(0.0, min(1.0, math.log(max(value, low) / low) / math.log(high / low)))
