"""The answer of the task `document`: a medical insurance form as one JSON object."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

DocumentType = Literal["claim_form", "diagnosis_certificate", "surgery_record", "itemised_bill"]

MAX_AMOUNT = 10**12
MAX_ITEMS = 200

DATE_FIELDS = frozenset(
    (
        "date_of_birth",
        "admission_date",
        "diagnosis_date",
        "surgery_date",
        "discharge_date",
        "issue_date",
        "claim_date",
    )
)
AMOUNT_FIELDS = frozenset(("claimed_amount", "total_amount", "insurer_amount", "patient_amount"))
CRITICAL_FIELDS = (
    frozenset(("patient_name", "resident_number", "member_id", "diagnosis_code", "account_number"))
    | DATE_FIELDS
    | AMOUNT_FIELDS
)
"""Fields that send money or a finding to the wrong place when they are wrong."""

CRITICAL_ITEM_FIELDS = frozenset(("amount",))
"""The same, of each item of a bill."""


def _iso_date(text: str) -> str:
    if len(text) != len("2024-03-05"):
        raise ValueError("a date is written YYYY-MM-DD")
    return datetime.date.fromisoformat(text).isoformat()


IsoDate = Annotated[str, AfterValidator(_iso_date)]
"""A day of the calendar, `YYYY-MM-DD`."""

Words = Annotated[str, Field(min_length=1, max_length=200)]
Amount = Annotated[int, Field(ge=0, le=MAX_AMOUNT)]
"""Whole won or dollars, as the form's language says."""


class _Strict(BaseModel):
    # Strict: "12" is not 12, and 1 is not true.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BillItem(_Strict):
    """One line of a bill; `amount` is that of the whole line."""

    name: Words
    quantity: Annotated[int, Field(ge=0, le=10**6)]
    amount: Amount


class Claim(_Strict):
    """What stands on the form, in the order in which it is written; nothing that does not."""

    document_type: DocumentType
    patient_name: Words | None = None
    resident_number: Words | None = None
    """Korean forms: six digits, a hyphen, seven digits."""

    member_id: Words | None = None
    """English forms: of the insurer."""

    date_of_birth: IsoDate | None = None
    sex: Literal["male", "female"] | None = None
    claim_type: Literal["illness", "accident"] | None = None
    inpatient: bool | None = None
    surgery: bool | None = None
    """Whether the patient was operated on."""

    admission_date: IsoDate | None = None
    diagnosis_date: IsoDate | None = None
    surgery_date: IsoDate | None = None
    discharge_date: IsoDate | None = None
    hospital: Words | None = None
    doctor: Words | None = None
    diagnosis_name: Words | None = None
    diagnosis_code: Words | None = None
    """KCD or ICD-10: a letter, two digits, and one more after a point where there is one."""

    diagnosis_status: Literal["clinical", "final"] | None = None
    surgery_name: Words | None = None
    anaesthesia: Literal["general", "spinal", "local"] | None = None
    implant: bool | None = None
    items: Annotated[list[BillItem], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    total_amount: Amount | None = None
    insurer_amount: Amount | None = None
    patient_amount: Amount | None = None
    paid: bool | None = None
    claimed_amount: Amount | None = None
    bank: Words | None = None
    account_number: Words | None = None
    consent: bool | None = None
    issue_date: IsoDate | None = None
    claim_date: IsoDate | None = None

    @model_validator(mode="before")
    @classmethod
    def fields_not_on_the_form_are_absent(cls, value: object) -> object:
        """A `null` says that a field is there and has no value; the schema has no such thing."""
        if isinstance(value, Mapping) and any(each is None for each in value.values()):
            raise ValueError("a field that is not on the form is left out, not null")
        return value

    def json_line(self) -> str:
        """The answer to learn: one line of JSON in the order of the schema."""
        return json.dumps(self.model_dump(exclude_none=True), ensure_ascii=False)
