"""Made-up claims that are consistent in themselves: dates in order, sums that add up."""

from __future__ import annotations

import datetime
import random
from collections.abc import Sequence
from typing import get_args

from vlmpipe.tasks.base import Language
from vlmpipe.tasks.document.claim import BillItem, Claim, DocumentType
from vlmpipe.tasks.document.identifiers import (
    make_account_number,
    make_member_id,
    make_resident_number,
)
from vlmpipe.tasks.document.wording import wording

FORMS: tuple[DocumentType, ...] = get_args(DocumentType)

FIRST_FIELDS: dict[DocumentType, tuple[str, ...]] = {
    "claim_form": ("patient_name", "claim_date", "claimed_amount", "diagnosis_code"),
    "diagnosis_certificate": ("patient_name", "diagnosis_code", "diagnosis_date", "issue_date"),
    "surgery_record": ("patient_name", "surgery_date", "diagnosis_code", "issue_date"),
    "itemised_bill": ("patient_name", "total_amount", "issue_date", "patient_amount"),
}
"""What the easiest forms ask for: short values, and what matters."""

PERSON = ("resident_number", "member_id", "date_of_birth", "sex")
STAY = ("inpatient", "admission_date", "discharge_date", "hospital")
FINDING = ("diagnosis_name", "diagnosis_code")
FURTHER_FIELDS: dict[DocumentType, tuple[str, ...]] = {
    "claim_form": (
        *(*PERSON, *STAY, *FINDING, "claim_type", "surgery", "total_amount"),
        *("bank", "account_number", "consent"),
    ),
    "diagnosis_certificate": (
        *(*PERSON, *STAY, *FINDING, "diagnosis_status", "doctor"),
        *("surgery", "surgery_date", "total_amount"),
    ),
    "surgery_record": (
        *(*PERSON, *STAY, *FINDING, "doctor", "surgery_name", "anaesthesia", "implant"),
        *("diagnosis_date", "total_amount"),
    ),
    "itemised_bill": (
        *(*PERSON, *STAY, *FINDING, "doctor", "insurer_amount", "paid"),
        *("bank", "account_number"),
    ),
}
"""What fuller forms ask for as well."""

MOST_ITEMS = 14
ITEMS_FROM = 0.25
"""Forms easier than this have no list of items."""


def random_claim(
    rng: random.Random, form: DocumentType, difficulty: float, language: Language
) -> Claim:
    """A form of that type about as hard as asked, 0 to 1 (see `DocumentTask.difficulty`)."""
    fields = _fields(rng, form, difficulty, language)
    share = max(0.0, (difficulty - ITEMS_FROM) / (1 - ITEMS_FROM))
    items = round(MOST_ITEMS * share**1.3 * rng.uniform(0.8, 1.1)) if share else 0
    full = _full_claim(rng, form, language, min(items, MOST_ITEMS))
    full["surgery"] = "surgery_date" in fields or full["surgery"]
    full["inpatient"] = "admission_date" in fields or full["inpatient"]
    return Claim.model_validate(
        {name: value for name, value in full.items() if name in fields and value != []}
    )


def _fields(
    rng: random.Random, form: DocumentType, difficulty: float, language: Language
) -> frozenset[str]:
    """Few and short ones for easy forms, all of the form's for hard ones."""
    foreign = "member_id" if language == "ko" else "resident_number"
    first = FIRST_FIELDS[form]
    further = [each for each in FURTHER_FIELDS[form] if each not in (*first, foreign)]
    count = 2 + difficulty**1.3 * (len(first) + len(further) - 2) * rng.uniform(0.9, 1.25)
    chosen = rng.sample(first, k=min(len(first), round(count)))
    chosen += rng.sample(further, k=min(len(further), max(0, round(count) - len(first))))
    return frozenset((*chosen, "document_type", "items"))


def _full_claim(
    rng: random.Random, form: DocumentType, language: Language, items: int
) -> dict[str, object]:
    """Every field there is, of one person and one stay."""
    words = wording(language)
    male, born = rng.random() < 0.5, _day(rng, 1940, 2015)
    diagnosis, code = rng.choice(words.diagnoses)
    return {
        "document_type": form,
        "patient_name": _name(rng, language, "male" if male else "female"),
        "resident_number": make_resident_number(rng, born, male),
        "member_id": make_member_id(rng),
        "date_of_birth": born.isoformat(),
        "sex": "male" if male else "female",
        "claim_type": rng.choice(("illness", "accident")),
        "inpatient": rng.random() < 0.5,
        "surgery": rng.random() < 0.5,
        "hospital": rng.choice(words.hospitals),
        "doctor": _name(rng, language, rng.choice(("male", "female"))),
        "diagnosis_name": diagnosis,
        "diagnosis_code": code,
        "diagnosis_status": rng.choice(("clinical", "final")),
        "surgery_name": rng.choice(words.surgeries),
        "anaesthesia": rng.choice(("general", "spinal", "local")),
        "implant": rng.random() < 0.5,
        "paid": rng.random() < 0.5,
        "bank": rng.choice(words.banks),
        "account_number": make_account_number(rng),
        "consent": rng.random() < 0.8,
        **_dates(rng),
        **_amounts(rng, rng.sample(words.items[form], k=items), won=language == "ko"),
    }


def _name(rng: random.Random, language: Language, sex: str) -> str:
    words = wording(language)
    surname, given = rng.choice(words.surnames), rng.choice(words.given[sex])
    return f"{surname}{given}" if language == "ko" else f"{given} {surname}"


def _dates(rng: random.Random) -> dict[str, object]:
    """A stay in hospital from admission to the claim for it, in this order."""
    names = (
        *("admission_date", "diagnosis_date", "surgery_date", "discharge_date"),
        *("issue_date", "claim_date"),
    )
    day = _day(rng, 2018, 2025)
    found: dict[str, object] = {}
    for name in names:
        found[name] = day.isoformat()
        day += datetime.timedelta(days=rng.randint(0, 9))
    return found


def _day(rng: random.Random, first_year: int, last_year: int) -> datetime.date:
    start = datetime.date(first_year, 1, 1)
    days = (datetime.date(last_year, 12, 31) - start).days
    return start + datetime.timedelta(days=rng.randint(0, days))


def _amounts(rng: random.Random, names: Sequence[str], *, won: bool) -> dict[str, object]:
    """Items and sums: the total is that of the items, and insurer and patient share it."""
    unit = 100 if won else 1
    items = [_item(rng, name, unit) for name in names]
    total = sum(item.amount for item in items) or unit * rng.randint(100, 9999)
    patient = total * rng.randint(2, 6) // (10 * unit) * unit
    return {
        "items": items,
        "total_amount": total,
        "insurer_amount": total - patient,
        "patient_amount": patient,
        "claimed_amount": patient,
    }


def _item(rng: random.Random, name: str, unit: int) -> BillItem:
    quantity = rng.choice((1, 1, 1, 2, 3, 5, 7, 10))
    price = unit * rng.randint(8, rng.choice((90, 900, 3000)))
    return BillItem(name=name, quantity=quantity, amount=quantity * price)
