"""Answers as models write them: the JSON object in them, its values in one form."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass

from vlmpipe.tasks.document.claim import AMOUNT_FIELDS, DATE_FIELDS, Claim
from vlmpipe.tasks.document.identifiers import (
    ACCOUNT_GROUPS,
    MEMBER_GROUPS,
    RESIDENT_GROUPS,
    digits_of,
    grouped,
)
from vlmpipe.tasks.document.repair import repaired_json
from vlmpipe.tasks.text_metrics import composed

Scalar = str | int | float | bool | None
Json = dict[str, object] | list[object]

GROUPS = {
    "resident_number": RESIDENT_GROUPS,
    "member_id": MEMBER_GROUPS,
    "account_number": ACCOUNT_GROUPS,
}
COUNTS = AMOUNT_FIELDS | {"amount", "quantity"}

MAX_CHARACTERS = 100_000
"""Longer text is not read as JSON; the form with the most fields takes some 12,000."""

MAX_DEPTH = 32
"""Objects and lists within each other; JSON nested deeper is not read."""

_FENCE = re.compile(r"\A\s*```(?:json|JSON)?[ \t]*\n(.*)\n[ \t]*```\s*\Z", re.DOTALL)
_DATE = re.compile(r"([0-9]{4})(?:[-./]|년) ?([0-9]{1,2})(?:[-./]|월) ?([0-9]{1,2})[.일]?")
_AMOUNT = re.compile(r"[₩$]? ?([0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,15}) ?원?")


@dataclass(frozen=True)
class Reading:
    """The JSON that an answer holds, and how it was come by."""

    strict: Json | None
    """As it stands, but for a code fence around it."""

    repaired: Json | None
    """What json_repair makes of an answer that holds no strict one."""

    @property
    def either(self) -> Json:
        """The strict one, else the repaired one, else an empty object."""
        return self.strict or self.repaired or {}


def read_answer(answer: str) -> Reading:
    """The JSON in an answer: strict, or else mended by json_repair."""
    strict = read_json(answer)
    if strict is not None:
        return Reading(strict, None)
    repaired = repaired_json(answer)
    return Reading(None, repaired if _is_flat(repaired, MAX_DEPTH) else None)


def read_json(answer: str) -> Json | None:
    """The JSON object or list that is the whole answer, bare or in a code fence; else None.

    `NaN` and `Infinity`, which Python's reader takes, are no JSON.
    """
    if len(answer) > MAX_CHARACTERS:
        return None
    fence = _FENCE.match(answer)
    try:
        found = json.loads(fence[1] if fence else answer, parse_constant=_refused)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) and _is_flat(found, MAX_DEPTH) else None


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _is_flat(value: object, most: int) -> bool:
    """Whether no more than `most` objects and lists stand within each other."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return most > 0 and all(_is_flat(each, most - 1) for each in inner)


def fits_schema(found: Json) -> bool:
    """Whether it is a claim as it stands, each value in the schema's own form."""
    return _claim(found) is not None


def read_claim(answer: str) -> Claim | None:
    """The answer as a claim, its dates, amounts and numbers put in the schema's form.

    None for an answer without a JSON object, or with one that does not fit the schema even then.
    Fields that are null are left out: they say no more than missing ones.
    """
    return _claim(normalised_json(read_json(answer)))


def _claim(found: object) -> Claim | None:
    try:
        return Claim.model_validate(found)
    except ValueError:
        return None


def normalised_json(found: object, name: str = "") -> object:
    """JSON with every value, at any depth, in the form of its field `name`, and no null field."""
    if isinstance(found, dict):
        return {key: normalised_json(each, key) for key, each in found.items() if each is not None}
    if isinstance(found, list):
        return [normalised_json(each, name) for each in found]
    return normalised_value(name, found)


def normalised_value(name: str, value: object) -> object:
    """One field's value: dates `YYYY-MM-DD`, amounts integers, numbers in groups, texts trimmed.

    What cannot be put in that form stays as it is.
    """
    if name in COUNTS:
        return _whole(value)
    if not isinstance(value, str):
        return value
    text = " ".join(composed(value).split())
    if name in DATE_FIELDS:
        return _date(text)
    if name in GROUPS:
        return grouped(digits_of(text), GROUPS[name]) or text
    return text.replace(" ", "").upper() if name == "diagnosis_code" else text


def _whole(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(match[1].replace(",", "")) if match else value


def _date(text: str) -> str:
    match = _DATE.fullmatch(text)
    try:
        return datetime.date(*map(int, match.groups())).isoformat() if match else text
    except ValueError:
        return text
