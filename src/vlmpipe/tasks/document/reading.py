"""Answers as models write them: the JSON object in them, its values in one form."""

from __future__ import annotations

import datetime
import json
import re
import unicodedata
from collections.abc import Mapping

from vlmpipe.tasks.document.claim import AMOUNT_FIELDS, DATE_FIELDS, Claim
from vlmpipe.tasks.document.identifiers import (
    ACCOUNT_GROUPS,
    MEMBER_GROUPS,
    RESIDENT_GROUPS,
    digits_of,
    grouped,
)

Scalar = str | int | float | bool | None

GROUPS = {
    "resident_number": RESIDENT_GROUPS,
    "member_id": MEMBER_GROUPS,
    "account_number": ACCOUNT_GROUPS,
}
COUNTS = AMOUNT_FIELDS | {"amount", "quantity"}

_FENCE = re.compile(r"\A\s*```(?:json|JSON)?[ \t]*\n(.*)\n[ \t]*```\s*\Z", re.DOTALL)
_DATE = re.compile(r"([0-9]{4})(?:[-./]|년) ?([0-9]{1,2})(?:[-./]|월) ?([0-9]{1,2})[.일]?")
_AMOUNT = re.compile(r"[₩$]? ?([0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,15}) ?원?")


def read_object(answer: str) -> dict[str, object] | None:
    """The JSON object that is the whole answer, bare or in a code fence; None where there is none.

    Fields that are null are left out: they say no more than missing ones.
    """
    fence = _FENCE.match(answer)
    try:
        found = json.loads(fence[1] if fence else answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return {name: value for name, value in found.items() if value is not None}


def read_claim(answer: str) -> Claim | None:
    """The answer as a claim, its dates, amounts and numbers put in the schema's form.

    None for an answer without a JSON object, or with one that does not fit the schema even then.
    """
    found = read_object(answer)
    if found is None:
        return None
    try:
        return Claim.model_validate(normalised_object(found))
    except ValueError:
        return None


def normalised_object(found: Mapping[str, object]) -> dict[str, object]:
    """The object with every value in the form of its field, items included."""
    return {name: _normalised(name, value) for name, value in found.items()}


def _normalised(name: str, value: object) -> object:
    if name != "items" or not isinstance(value, list):
        return normalised_value(name, value)
    return [normalised_object(each) if isinstance(each, dict) else each for each in value]


def normalised_value(name: str, value: object) -> object:
    """One field's value: dates `YYYY-MM-DD`, amounts integers, numbers in groups, texts trimmed.

    What cannot be put in that form stays as it is.
    """
    if name in COUNTS:
        return _whole(value)
    if not isinstance(value, str):
        return value
    text = " ".join(unicodedata.normalize("NFC", value).split())
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
