"""The report's training section: steps run beside steps planned, and what was noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from report_fakes import AUDIT, publish
from test_report import Page
from vlmpipe.evaluation.report import write_report
from vlmpipe.evaluation.report.loss_curve import loss_curves
from vlmpipe.evaluation.report.training_events import MOST_EVENTS, noticed, trained_phases

PHASES = [{"name": "small", "steps": 20}, {"name": "large", "steps": 40}]
EXAM = {"event": "examined", "metric": "teds", "samples": 3, "value": 0.0, "heldout_loss": 8.6}


def stopped_rows() -> list[dict[str, Any]]:
    """A first phase that ended after 6 of 20 steps, best after step 2, and a whole second one."""
    steps = [*range(1, 7), *range(21, 61)]
    rows: list[dict[str, Any]] = [
        {"step": step, "phase": "small" if step < 7 else "large", "loss": 9 / step}
        for step in steps
    ]
    small = {"phase": "small"}
    return [
        *rows,
        {**small, **EXAM, "step": 2, "best": True},
        {**small, **EXAM, "step": 6, "best": False, "heldout_loss": 8.9},
        {**small, **EXAM, "step": 6, "event": "stopped_early", "best_step": 2},
        {**small, "step": 2, "eval_loss": 8.7},
        {"phase": "large", "step": 60, "eval_loss": 3.0},
    ]


def page_of(run: Path, rows: list[dict[str, Any]]) -> Page:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    audit = {**AUDIT, "phases": [{**AUDIT["phases"][0], **phase} for phase in PHASES]}
    publish(run, "train", files={"metrics.jsonl": lines, "audit.json": json.dumps(audit)})
    return Page(write_report(run))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "demo"


def test_steps_run_stand_beside_steps_planned() -> None:
    small, large = trained_phases(PHASES, stopped_rows())
    assert (small["ran"], small["left_at"]) == (6, 2)
    assert (large["ran"], large["left_at"]) == (40, None)
    assert trained_phases(PHASES, [])[0]["ran"] is None
    assert trained_phases(None, []) == []


def test_a_step_that_was_left_out_was_run_too() -> None:
    rows = [
        {"step": 1, "phase": "small", "loss": 3.0},
        {"step": 2, "phase": "small", "event": "bad_step"},
        {"step": 2, "phase": "small", "learning_rate": 0.1},
    ]
    assert trained_phases(PHASES, rows)[0]["ran"] == 2


def test_a_phase_that_was_stopped_early_says_so(run: Path) -> None:
    page = page_of(run, stopped_rows())
    assert "6 of 20 stopped early, weights of step 2" in page.text
    assert "2 small examined teds 0, loss 8.600 of 3 held-out samples, the best so far" in page.text
    assert "6 small stopped early the phase left the weights of step 2: teds 0" in page.text
    assert "Held-out loss is of the weights that a phase handed on" in page.text


def test_what_was_noticed_is_told_in_words(run: Path) -> None:
    bad = {"what": "the loss is nan", "samples": [{"id": "a<b>", "origin": "data.jsonl:3"}]}
    spike = {"value": 9.0, "median": 2.5, "spreads": 6.5}
    found = [
        {"step": 3, "phase": "small", "event": "bad_step", **bad},
        {"step": 4, "phase": "small", "event": "loss_spike", **spike},
        {"step": 5, "phase": "small", "event": "plateau", "steps": 200.0},
    ]
    page = page_of(run, [*stopped_rows(), *found])
    assert "step left out the loss is nan; samples a<b> (data.jsonl:3)" in page.text
    assert "a<b>" not in page.source
    assert "loss spike 9, 6.5 spreads above the median 2.500" in page.text
    assert "plateau the mean loss did not fall over 200 steps" in page.text


def test_events_are_drawn_on_the_curve() -> None:
    rows = stopped_rows()
    plain = [row for row in rows if "event" not in row]
    with_stop, without = loss_curves(rows), loss_curves(plain)
    assert with_stop is not None
    assert without is not None
    assert "stopped early" in with_stop[0]
    assert "stopped early" not in without[0]
    bad = {"step": 4, "phase": "small", "event": "bad_step"}
    assert "step left out" in (loss_curves([*plain, bad]) or ("",))[0]


def test_what_is_rare_is_shown_before_measurements() -> None:
    exams = [{**EXAM, "step": step, "phase": "small"} for step in range(100)]
    spike = {"step": 99, "phase": "small", "event": "loss_spike"}
    events = noticed([*exams, spike])
    assert len(events.shown) == MOST_EVENTS
    assert events.left_out == 101 - MOST_EVENTS
    assert events.shown[-1].kind == "loss spike"


@pytest.mark.parametrize("samples", [None, 7, "x", [1, "y"]])
def test_events_that_are_none_harm_nothing(samples: Any) -> None:
    rows = [
        {"event": ["bad_step"], "step": 1},
        {"event": "bad_step", "step": "x"},
        {"event": "bad_step", "step": 1, "samples": samples},
        {"event": "loss_spike", "step": 2, "value": "<b>"},
        {"event": "unheard_of", "step": 2},
    ]
    assert len(noticed(rows).shown) == 2
