"""Medical forms as JSON: the schema, the made-up numbers, what an answer is worth."""

from __future__ import annotations

import datetime
import json
import random
import string
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmpipe.tasks.base import LANGUAGES, Language
from vlmpipe.tasks.document.claim import Claim
from vlmpipe.tasks.document.identifiers import (
    make_account_number,
    make_member_id,
    make_resident_number,
    valid_account_number,
    valid_member_id,
    valid_resident_number,
)
from vlmpipe.tasks.document.reading import fits_schema, read_claim, read_json
from vlmpipe.tasks.document.rendering import claim_html
from vlmpipe.tasks.document.scoring import document_metrics, hardness
from vlmpipe.tasks.document.synthetic import FORMS, random_claim

CLAIM = Claim.model_validate(
    {
        "document_type": "itemised_bill",
        "patient_name": "김민수",
        "inpatient": False,
        "diagnosis_code": "K35.8",
        "items": [
            {"name": "진찰료", "quantity": 1, "amount": 12000},
            {"name": "검사료", "quantity": 2, "amount": 50000},
        ],
        "total_amount": 62000,
        "issue_date": "2024-03-05",
    }
)
LINE = CLAIM.json_line()
WRONG = {
    "garbage": "I cannot read this form.",
    "empty": "",
    "list": "[1, 2]",
    "number": "1" * 5000,
    "deep": '{"patient_name": ' + "[" * 100_000,
    "deep and closed": '{"patient_name": ' + "[" * 900 + "]" * 900 + "}",
    "not a number": '{"total_amount": NaN}',
    "infinite": '{"total_amount": 1e999}',
    "cut off": LINE[:-1],
    "half a character": '{"patient_name": "\\ud800"}',
    "items": '{"items": [1, null, [], {"": {}}], "surgery": {"items": []}}',
}


def changed(**fields: object) -> str:
    return json.dumps({**json.loads(LINE), **fields}, ensure_ascii=False)


def resident_number(rng: random.Random) -> str:
    born = datetime.date(1940, 1, 1) + datetime.timedelta(days=rng.randint(0, 29_000))
    return make_resident_number(rng, born, rng.random() < 0.5)


def is_strict(answer: str) -> bool:
    found = read_json(answer)
    return found is not None and fits_schema(found)


def accuracy(answer: str, reference: str = LINE) -> float:
    return document_metrics(answer, reference)["field_accuracy"]


def claim_of(seed: int, asked: float, language: Language) -> Claim:
    rng = random.Random(seed)
    return random_claim(rng, rng.choice(FORMS), asked, language)


IDENTIFIERS: dict[str, tuple[Callable[[random.Random], str], Callable[[str], bool]]] = {
    "resident number": (resident_number, valid_resident_number),
    "member id": (make_member_id, valid_member_id),
    "account": (make_account_number, valid_account_number),
}


@pytest.mark.parametrize("kind", IDENTIFIERS)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**9))
def test_made_up_numbers_pass_their_check_and_no_changed_digit_does(kind: str, seed: int) -> None:
    make, valid = IDENTIFIERS[kind]
    number = make(random.Random(seed))
    assert valid(number)
    assert valid(number.replace("-", ""))
    for place, digit in enumerate(number):
        for other in set(string.digits) - {digit} if digit.isdigit() else ():
            assert not valid(number[:place] + other + number[place + 1 :])


@pytest.mark.parametrize(
    "text", ["", "-", "12", "9" * 5000, "９０７３２２２５８８５", "abc-defg-hijk"]
)
def test_other_texts_are_no_numbers(text: str) -> None:
    assert not any(valid(text) for _, valid in IDENTIFIERS.values())


def test_known_numbers_are_told_right() -> None:
    assert valid_resident_number("900101-1234568")  # 124 % 11 = 3
    assert not valid_resident_number("900101-1234567")
    assert not valid_resident_number("901301-1234567")
    assert valid_account_number("0799 2739 8713")  # the textbook's 7992739871 and its check digit
    assert valid_member_id("00000079444")  # the example of ISO 7064


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**9), st.floats(0, 1), st.sampled_from(LANGUAGES))
def test_a_made_up_claim_is_its_own_perfect_answer(
    seed: int, asked: float, language: Language
) -> None:
    claim = claim_of(seed, asked, language)
    line = claim.json_line()
    assert is_strict(line)
    assert "\n" not in line
    assert read_claim(line) == claim
    marks = document_metrics(line, line)
    wrong = {"repaired", "hallucinated", "missing"}
    assert {name: value for name, value in marks.items() if value != float(name not in wrong)} == {}
    assert marks.keys() > wrong | {"critical_accuracy", "schema_valid"}


def test_claims_are_consistent_in_themselves() -> None:
    for seed in range(60):
        claim = claim_of(seed, 1.0, "ko")
        assert claim.resident_number
        assert valid_resident_number(claim.resident_number)
        assert claim.date_of_birth is None or claim.date_of_birth[2:4] == claim.resident_number[:2]
        dates = [claim.admission_date, claim.discharge_date, claim.issue_date, claim.claim_date]
        assert [each for each in dates if each] == sorted(each for each in dates if each)
        assert claim.items
        assert claim.total_amount in (None, sum(item.amount for item in claim.items))
        if claim.document_type == "itemised_bill":
            assert claim.insurer_amount is not None
            assert claim.patient_amount is not None
            assert claim.insurer_amount + claim.patient_amount == claim.total_amount


def test_easy_forms_have_few_fields_and_every_form_comes() -> None:
    claims = [claim_of(seed, 0.1, "en") for seed in range(40)]
    assert {claim.document_type for claim in claims} == set(FORMS)
    assert all(3 <= len(claim.model_dump(exclude_none=True)) <= 5 for claim in claims)


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_claim_is_worth_nothing_and_harms_nothing(kind: str) -> None:
    answer = WRONG[kind]
    assert not is_strict(answer)
    assert read_claim(answer) is None
    assert accuracy(answer) == 0.0
    assert 0.0 <= hardness(answer) <= 1.0


@pytest.mark.parametrize(
    "answer",
    [
        changed(total_amount="62000"),
        changed(inpatient="false"),
        changed(inpatient=0),
        changed(issue_date="2024-3-5"),
        changed(issue_date="2024-02-30"),
        changed(patient_name=None),
        changed(nickname="Min"),
        changed(document_type="letter"),
        changed(total_amount=-1),
        changed(total_amount=10**30),
        changed(items=[]),
    ],
)
def test_strictly_valid_is_only_what_the_schema_says(answer: str) -> None:
    assert is_strict(LINE)
    assert not is_strict(answer)


@pytest.mark.parametrize(
    "answer",
    [
        changed(total_amount="62,000원"),
        changed(total_amount="₩62,000"),
        changed(total_amount=62000.0),
        changed(issue_date="2024. 3. 5."),
        changed(issue_date="2024년 3월 5일"),
        changed(diagnosis_code="k35.8 "),
        changed(patient_name=" 김민수"),
        changed(patient_name=unicodedata.normalize("NFD", "김민수")),
        changed(doctor=None),
        f"```json\n{LINE}\n```",
        json.dumps(dict(reversed(json.loads(LINE).items())), indent=2),
    ],
)
def test_the_same_said_otherwise_has_the_same_canonical_form(answer: str) -> None:
    claim = read_claim(answer)
    assert claim
    assert claim.json_line() == LINE
    assert accuracy(answer) == 1.0


def test_difficulty_grows_with_fields_characters_and_items() -> None:
    short = '{"document_type": "claim_form", "patient_name": "A"}'
    steps = [
        hardness(short),
        hardness(LINE),
        hardness(changed(doctor="이영희")),
        hardness(changed(doctor="이영희 " * 9)),
        hardness(changed(items=json.loads(LINE)["items"] * 6)),
        hardness(changed(items=json.loads(LINE)["items"] * 40)),
    ]
    assert steps == sorted(set(steps))
    assert steps[0] == 0.0
    assert steps[-1] == 1.0


def test_a_claim_is_shown_with_its_text_escaped() -> None:
    hostile = "<script>alert(1)</script>\"'<img src=x onerror=y>"
    claim = read_claim(changed(patient_name=hostile, items=[{**_item(), "name": hostile}]))
    assert claim
    shown = claim_html(claim)
    assert "<script" not in shown
    assert "<img" not in shown
    assert shown.count("&lt;script&gt;") == 2
    assert "<td>62,000</td>" in shown


def _item() -> dict[str, object]:
    return {"name": "a", "quantity": 1, "amount": 2}
