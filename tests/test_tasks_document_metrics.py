"""What an answer in JSON is worth: hand-worked cases, bounds, and answers that harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anls_star import anls_score
from hypothesis import given, settings
from hypothesis import strategies as st

from data_files import SHARED_DATA
from vlmpipe.tasks import TASKS
from vlmpipe.tasks.document import anls, comparing
from vlmpipe.tasks.document.claim import CRITICAL_FIELDS, Claim
from vlmpipe.tasks.document.comparing import Tally, compare
from vlmpipe.tasks.document.nodes import node_of
from vlmpipe.tasks.document.repair import repaired_json
from vlmpipe.tasks.document.scoring import CRITICAL_WEIGHT, document_metrics

DOCUMENT = TASKS["document"]
ITEMS = [
    {"name": "진찰료", "quantity": 1, "amount": 12000},
    {"name": "검사료", "quantity": 2, "amount": 50000},
]
BILL = {
    "document_type": "itemised_bill",
    "patient_name": "김민수",
    "inpatient": False,
    "diagnosis_code": "K35.8",
    "items": ITEMS,
    "total_amount": 62000,
    "issue_date": "2024-03-05",
}
"""Twelve fields; six are critical: name, code, two amounts, total, date."""

LINE = json.dumps(BILL, ensure_ascii=False)
RECEIPT = '{"company": "MYNEWS", "date": "29/06/2018", "total": "7.70"}'
SMALLER = {"repaired", "hallucinated", "missing", "cer", "wer"}

values = st.none() | st.booleans() | st.integers(-99, 99) | st.text("ab가1,. ", max_size=6)
trees = st.recursive(
    values,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(["a", "b", "items", "total_amount"]), trees)
few = settings(deadline=None, max_examples=80)


def changed(**fields: object) -> str:
    return json.dumps({**BILL, **fields}, ensure_ascii=False)


def tally(given_: object, asked: object) -> Tally:
    return compare(node_of(given_), node_of(asked))


@pytest.mark.parametrize(
    ("answer", "accuracy"),
    [
        (LINE, 1.0),
        ("{}", 0.0),
        (changed(patient_name="김민지"), 11 / 12),
        (changed(inpatient=0), 11 / 12),
        (changed(inpatient="false"), 11 / 12),
        (changed(nickname="Min", doctor="이영희"), 12 / 14),
        (changed(items=ITEMS[1:]), 9 / 12),
        (changed(items=[{"name": "식대"}, *ITEMS]), 12 / 13),
        (changed(items=ITEMS[::-1]), 9 / 12),
        (changed(items="none"), 6 / 12),
        (changed(items=[7]), 6 / 12),
        (changed(inpatient={"from": 1, "to": 2, "days": 3}), 11 / 14),
    ],
)
def test_each_wrong_missing_or_invented_field_costs_itself(answer: str, accuracy: float) -> None:
    assert document_metrics(answer, LINE)["field_accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("answer", "hallucinated", "missing"),
    [
        (LINE, 0.0, 0.0),
        ("{}", 0.0, 1.0),
        ("I cannot read it.", 0.0, 1.0),
        (changed(patient_name="김민지"), 0.0, 0.0),
        (changed(doctor="이영희", bank="x", hospital="y"), 3 / 15, 0.0),
        (changed(items=ITEMS[1:]), 0.0, 3 / 12),
        (changed(items=[*ITEMS, ITEMS[0]]), 3 / 15, 0.0),
        ('{"doctor": "a", "patient_name": "b"}', 1 / 2, 11 / 12),
        (changed(issue_date=None), 0.0, 1 / 12),
    ],
)
def test_fields_made_up_and_left_out_are_rates(
    answer: str, hallucinated: float, missing: float
) -> None:
    marks = document_metrics(answer, LINE)
    assert marks["hallucinated"] == pytest.approx(hallucinated)
    assert marks["missing"] == pytest.approx(missing)


def test_critical_fields_are_counted_apart_and_weigh_more() -> None:
    assert Claim.model_fields.keys() > CRITICAL_FIELDS
    assert CRITICAL_WEIGHT == 3
    plain, wrong = (
        document_metrics(changed(inpatient=True), LINE),
        document_metrics(changed(diagnosis_code="K35.9"), LINE),
    )
    assert (plain["field_accuracy"], wrong["field_accuracy"]) == (11 / 12, 11 / 12)
    assert (plain["critical_accuracy"], wrong["critical_accuracy"]) == (1.0, 5 / 6)
    # Six fields that count 1 and six that count 3 are 24.
    assert plain["field_accuracy_weighted"] == pytest.approx(23 / 24)
    assert wrong["field_accuracy_weighted"] == pytest.approx(21 / 24)
    made_up = document_metrics(changed(account_number="1"), LINE)
    assert made_up["field_accuracy_weighted"] == pytest.approx(24 / 27)


def test_what_a_reference_gives_no_ground_to_measure_is_left_out() -> None:
    marks = document_metrics(RECEIPT, RECEIPT)
    assert not marks.keys() & {"critical_accuracy", "field_accuracy_weighted", "schema_valid"}
    assert marks["field_accuracy"] == marks["anls_star"] == marks["valid_json"] == 1.0
    assert document_metrics(LINE, "no JSON").keys() == {
        "field_accuracy", "field_accuracy_repaired", "valid_json", "repaired",
    }  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [LINE[:-1], LINE[:-2], f"{LINE[:-1]},}}", LINE.replace('"', "'"), f"Here it is: {LINE} Done."],
)
def test_repaired_answers_are_flagged_and_never_counted_as_strict(broken: str) -> None:
    marks = document_metrics(broken, LINE)
    assert (marks["valid_json"], marks["schema_valid"], marks["repaired"]) == (0.0, 0.0, 1.0)
    assert marks["field_accuracy"] == marks["critical_accuracy"] == 0.0
    assert marks["field_accuracy_repaired"] >= 11 / 12


@pytest.mark.parametrize(
    ("answer", "valid", "fits", "repaired"),
    [
        (LINE, 1.0, 1.0, 0.0),
        (f"```json\n{LINE}\n```", 1.0, 1.0, 0.0),
        (changed(total_amount="62,000원"), 1.0, 0.0, 0.0),
        (changed(nickname="Min"), 1.0, 0.0, 0.0),
        ("[1, 2]", 1.0, 0.0, 0.0),
        ('{"total_amount": NaN}', 0.0, 0.0, 1.0),
        ("62000", 0.0, 0.0, 0.0),
        ("I see [a] bill", 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_how_an_answer_reads(answer: str, valid: float, fits: float, repaired: float) -> None:
    marks = document_metrics(answer, LINE)
    assert (marks["valid_json"], marks["schema_valid"], marks["repaired"]) == (
        valid, fits, repaired,
    )  # fmt: skip


def test_dates_and_amounts_count_in_any_form_and_at_any_depth() -> None:
    other = changed(total_amount="62,000원", issue_date="2024. 3. 5.", diagnosis_code="k35.8")
    assert document_metrics(other, LINE)["field_accuracy"] == 1.0
    asked = '{"patient": {"date_of_birth": "1990-01-02"}}'
    given_ = '{"patient": {"date_of_birth": "1990년 1월 2일"}}'
    assert document_metrics(given_, asked)["field_accuracy"] == 1.0


def test_people_s_json_is_compared_at_any_depth() -> None:
    asked = {"shop": {"name": "A", "tags": ["x", "y"]}, "rows": [[1, 2], [3, 4]], "note": None}
    assert tally(asked, asked) == Tally(right=8, asked=8, given=8)
    found = tally({"shop": {"name": "B"}, "rows": [[1, 2], [3, 5], [6]]}, asked)
    # Right: 1, 2, 3. Missing: x, y, note. Made up: 6.
    assert found == Tally(right=3, asked=8, missing=3, given=6, invented=1)
    assert document_metrics("[[1], [2]]", "[[1], [3]]")["field_accuracy"] == 0.5


def test_lists_too_large_to_align_are_compared_place_by_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, given_ = list(range(1, 9)), list(range(9))
    assert tally(given_, asked).right == 8
    monkeypatch.setattr(comparing, "MAX_PAIRS", 10)
    assert tally(given_, asked) == Tally(asked=8, given=9, invented=1)
    assert tally(asked, asked).right == 8


def test_anls_star_is_the_package_s_and_forgives_what_field_accuracy_does_not() -> None:
    answer = '{"date_of_birth": "1990-01-03", "patient_name": "Kim"}'
    truth = '{"date_of_birth": "1990-01-02", "patient_name": "Kim"}'
    marks = document_metrics(answer, truth)
    assert marks["anls_star"] == anls_score(json.loads(truth), json.loads(answer))
    assert marks["anls_star"] == pytest.approx((1 + 9 / 10) / 2)
    assert marks["field_accuracy"] == 0.5


def test_anls_star_of_large_references_is_not_measured_for_any_answer() -> None:
    large = json.dumps({"text": "가" * anls.MAX_REFERENCE})
    assert "anls_star" not in document_metrics(large, large)
    assert "anls_star" not in document_metrics("{}", large)
    deep: Any = "x"
    for _ in range(anls.MAX_LISTS + 1):
        deep = [deep]
    assert "anls_star" not in document_metrics('{"a": 1}', json.dumps({"a": deep}))
    assert document_metrics(large, LINE)["anls_star"] == 0.0
    assert document_metrics(json.dumps({"text": "a" * 6000}), LINE)["anls_star"] == 0.0


@few
@given(objects, objects)
def test_every_metric_keeps_to_its_bounds_and_identity_is_best(
    one: dict[str, object], other: dict[str, object]
) -> None:
    answer, truth = json.dumps(one), json.dumps(other)
    marks = DOCUMENT.measure(answer, truth)
    assert all(0.0 <= value <= 1.0 for name, value in marks.items() if name not in {"cer", "wer"})
    own = DOCUMENT.measure(truth, truth)
    assert own == {name: float(name not in SMALLER) for name in own}
    assert marks.keys() == own.keys()


@few
@given(objects, objects)
def test_what_one_side_misses_the_other_invents(
    one: dict[str, object], other: dict[str, object]
) -> None:
    forth, back = tally(one, other), tally(other, one)
    assert forth.right == back.right
    assert forth.critical_right == back.critical_right
    assert (forth.asked, forth.given) == (back.given, back.asked)
    assert 0 <= forth.missing <= forth.asked - forth.right
    assert 0 <= forth.invented <= forth.given - forth.right


@few
@given(st.text(max_size=200) | st.text('{}[]",:a1\\\n ', max_size=200))
def test_no_text_raises_and_keys_hang_on_the_reference_alone(text: str) -> None:
    assert DOCUMENT.measure(text, LINE).keys() == DOCUMENT.measure(LINE, LINE).keys()
    DOCUMENT.measure(text, text)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "[" * 1_000_000,
        '{"a":' * 200_000,
        "\ud800" * 200_000,
        "\0" * 1_000_000,
        '{"patient_name": "' + "\u0300\u0327" * 40_000 + '"}',
        '{"items": [' + "[]," * 10_000 + "[]]}",
        "```json\n" + "\n```" * 100_000 + "x",
        LINE * 3_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_huge_answers_are_scored_within_bounds(text: str) -> None:
    marks = DOCUMENT.measure(text, LINE)
    assert marks["field_accuracy"] == marks["field_accuracy_repaired"] == 0.0
    assert DOCUMENT.measure(text, text)["field_accuracy"] == 1.0


@pytest.mark.parametrize(
    "text",
    ["가" + "{{]" * 600 + "//”]" * 500, " {true}" * 1_000, "a" * 8_001, '{"a":' * 17],
    ids=lambda text: repr(text[:12]),
)
def test_text_that_json_repair_takes_long_over_is_not_given_to_it(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was")

    monkeypatch.setattr("json_repair.repair_json", refuse)
    assert repaired_json(text) is None
    with pytest.raises(AssertionError):
        repaired_json('{"a": 1')


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared sample data is not here")
def test_real_receipts_score_full_for_themselves_and_less_for_others() -> None:
    lines = (SHARED_DATA / "receipts_sroie" / "samples.jsonl").read_text().splitlines()
    answers = [json.loads(line)["messages"][-1]["content"][0]["text"] for line in lines]
    for answer, other in zip(answers, answers[1:] + answers[:1], strict=True):
        assert DOCUMENT.measure(answer, answer)["field_accuracy"] == 1.0
        if answer != other:
            assert DOCUMENT.measure(other, answer)["field_accuracy"] < 1.0
        assert DOCUMENT.measure(other, answer)["missing"] == 0.0
