"""Judged answers on the page: how many were judged, what was lost, what is out of date."""

from __future__ import annotations

import json
from typing import Any

import pytest

from report_fakes import JUDGED, TABLE, publish, publish_records, record
from test_report import Page
from vlmpipe.evaluation.judging.cases import text_digest
from vlmpipe.evaluation.report import write_report
from vlmpipe.evaluation.review.key import Key, KeyItem, write_key

ENGINES = ("hf:adapter", "hf:base")
PAIR = "hf-adapter_vs_hf-base"


@pytest.fixture
def run(tmp_path):
    """A run whose two engines answered three samples."""
    folder = tmp_path / "outputs" / "demo"
    publish(folder, "check")
    for engine in ENGINES:
        answer(folder, engine, ["one", "two", "three"])
    return folder


def answer(run, engine: str, texts: list[str]) -> None:
    publish_records(run, [record(engine, f"s{n}", text) for n, text in enumerate(texts)])


def judge(run, stem: str, rows: list[dict[str, Any]] = (), **figures: Any) -> None:
    """A judge's figures over the fake's, and verdicts."""
    (run / "judge").mkdir(exist_ok=True)
    content = JUDGED[f"{stem}.json"] | {"stopped": None} | figures
    (run / "judge" / f"{stem}.json").write_text(json.dumps(content))
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (run / "judge" / f"{stem}.jsonl").write_text(lines)


def verdicts(*texts: str, engines=ENGINES, **said: Any) -> list[dict[str, Any]]:
    """On the same text of every engine."""
    return [
        {
            "sample": f"s{n}",
            "split": "heldout",
            "answers": dict.fromkeys(engines, text_digest(text)),
        }
        | said
        for n, text in enumerate(texts)
    ]


def shown(run) -> str:
    return Page(write_report(run)).text


def test_cases_without_a_verdict_are_counted_beside_those_with_one(run):
    judge(run, PAIR, cases=20, judged=11, failed=6, no_verdict=3)
    assert "hf:base 11 of 20 6 not answered 3 without a verdict 9 1 1" in shown(run)
    judge(run, PAIR, cases=11, judged=11, failed=0, no_verdict=0)
    text = shown(run)
    assert "hf:base 11 of 11 9 1 1" in text
    assert "without a verdict" not in text


def test_a_judge_without_a_single_verdict_says_so(run):
    fault = {"connection refused <b>": 12}
    judge(run, "hf-adapter", cases=12, judged=0, failed=12, no_verdict=0, faults=fault,
          mean_score={"value": None, "n": 0}, correlation={"value": None, "n": 0})  # fmt: skip
    text = shown(run)
    assert (
        "some-judge gave no verdict at all on hf:adapter: of 12, 12 not answered"
        " (connection refused <b>)." in text
    )
    judge(run, "hf-adapter", cases=12, judged=12)
    assert "no verdict at all" not in shown(run)


@pytest.mark.parametrize(
    ("texts", "stale"),
    [(("one", "two", "three"), 0), (("one", "2", "3"), 2), (("one", "two", "three", "four"), 1)],
)
def test_verdicts_on_answers_that_are_gone_are_warned_of(run, texts, stale):
    judge(run, PAIR, verdicts(*texts, winner="tie"))
    warned = "of the verdicts of some-judge on hf:adapter against hf:base are about answers"
    text = shown(run)
    assert (warned in text) is bool(stale)
    assert f"{stale} {warned}" in text or not stale


def test_scores_of_answers_that_are_gone_are_warned_of_and_what_was_not_judged_is_not(run):
    rows = verdicts("one", "2", engines=ENGINES[:1], score=4)
    judge(run, "hf-adapter", [*rows, *verdicts("1", engines=ENGINES[:1], score=None)])
    assert "1 of the verdicts of some-judge on hf:adapter are about answers" in shown(run)


def test_a_review_of_answers_that_are_gone_is_warned_of(run):
    items = {
        row["sample"]: KeyItem(
            sample=row["sample"], split=row["split"], task="table", first=ENGINES[0], scores={},
            answers=row["answers"],
        )
        for row in verdicts("one", "2", "three")
    }  # fmt: skip
    key = Key(engines=ENGINES, seed="x", identical=0, items=items)
    write_key(run / "review", key)
    told = {"engines": ENGINES, "raters": {"ann": {}}, "judged": 3, "pairs": 3, "outcomes": {}}
    (run / "review" / f"{key.sheet}.json").write_text(json.dumps(told))
    text = shown(run)
    assert "1 of the verdicts of 1 person on hf:adapter against hf:base are about answers" in text
    assert "hf:base 3 of 3" in text


def test_damaged_verdicts_and_records_leave_the_page_without_a_warning(run):
    judge(run, PAIR, verdicts("1", winner="tie"))
    for engine in ENGINES:
        (run / "predictions" / f"{engine.replace(':', '-')}.jsonl").write_text("{}\n")
    assert "do not hold any more" not in shown(run)
    (run / "judge" / f"{PAIR}.jsonl").write_text("{")
    answer(run, "hf:base", [TABLE])
    assert "do not hold any more" not in shown(run)
