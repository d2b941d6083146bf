"""The fields of a form as people see them: label, and a text or boxes to tick, in groups."""

from __future__ import annotations

import random
from dataclasses import dataclass

from vlmpipe.tasks.document.claim import Claim
from vlmpipe.tasks.document.style import Style
from vlmpipe.tasks.document.wording import Wording

SECTIONS: dict[str, tuple[str, ...]] = {
    "patient": ("patient_name", "resident_number", "member_id", "date_of_birth", "sex"),
    "money": (
        *("total_amount", "insurer_amount", "patient_amount", "paid", "claimed_amount"),
        *("bank", "account_number"),
    ),
    "closing": ("consent", "issue_date", "claim_date"),
}
"""Fields by group; all others belong to `care`."""


@dataclass(frozen=True)
class Entry:
    """One field on the form: what is filled in, or words of boxes and whether each is ticked."""

    label: str
    text: str = ""
    boxes: tuple[tuple[str, bool], ...] = ()


def entries_by_section(
    rng: random.Random, claim: Claim, words: Wording, style: Style
) -> dict[str, list[Entry]]:
    """Entries of each group, in the order of the form."""
    groups: dict[str, list[Entry]] = {"patient": [], "care": [], "money": [], "closing": []}
    for name, value in claim.model_dump(exclude_none=True).items():
        if name not in ("document_type", "items"):
            groups[_section(name)].append(_entry(rng, name, value, words, style))
    if rng.random() < 0.3:
        for entries in groups.values():
            rng.shuffle(entries)
    return groups


def _section(name: str) -> str:
    return next((section for section, names in SECTIONS.items() if name in names), "care")


def _entry(rng: random.Random, name: str, value: object, words: Wording, style: Style) -> Entry:
    label = rng.choice(words.labels[name])
    if isinstance(value, bool):
        return Entry(label, boxes=((words.yes, value), (words.no, not value)))
    choices = words.choices.get(name)
    if choices is None:
        return Entry(label, style.written(name, value))
    return Entry(label, boxes=tuple((word, each == value) for each, word in choices.items()))
