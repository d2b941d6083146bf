"""Gates: refused, reported, let through once; every decision recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_fakes import END, MAKE, USE, FakeConfig, Run
from vlmpipe.errors import GateError
from vlmpipe.pipeline import Stage

REASON = "teds 0.2 is below 0.9"


def judged(mode: str = "enforce", **more: object) -> FakeConfig:
    return FakeConfig(make={"verdict": REASON, "gate": mode, **more})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_failed_verdict_stops_the_consumer_with_every_way_past_it(run: Run) -> None:
    with pytest.raises(GateError, match="use refuses make v001: its gate failed") as caught:
        run(judged(), command="vlmpipe run-all")
    error = caught.value
    assert error.exit_code == 7
    assert error.problems == (REASON,)
    assert error.stage == "use"
    assert error.remedies == (
        "let it pass this once: --allow-failed-gate",
        "only report it: make.gate=report",
        "or choose another version: --use make=vNNN",
        "then go on with: vlmpipe run-all",
    )
    assert run.store.latest(MAKE) is not None
    assert run.store.latest(USE) is None


def test_a_refusal_is_recorded(run: Run) -> None:
    with pytest.raises(GateError):
        run(judged())
    refusal = run.journal()[-1]
    assert (refusal["event"], refusal["stage"], refusal["gate"]) == ("refused", "use", "make")
    assert refusal["reasons"] == [REASON]


def test_a_permission_holds_once_and_is_recorded_in_manifest_and_journal(run: Run) -> None:
    assert run.done(judged(), allow_failed_gate=True)["use"] == "v001"
    assert run.latest("use").manifest.gates == {
        "make": {"passed": False, "mode": "enforce", "allowed_by": "--allow-failed-gate"}
    }
    allowed = [entry for entry in run.journal() if entry["event"] == "allowed"]
    assert [(e["stage"], e["gate"], e["by"]) for e in allowed] == [
        ("use", "make", "--allow-failed-gate")
    ]


def test_a_cached_consumer_is_refused_too_when_not_allowed_again(run: Run) -> None:
    run(judged(), allow_failed_gate=True)
    with pytest.raises(GateError):
        run(judged())
    with pytest.raises(GateError):
        run(judged())
    assert run.done(judged(), allow_failed_gate=True) == {
        "make": "v001*",
        "use": "v001*",
        "end": "v001*",
    }


@pytest.mark.parametrize("mode", ["report", "off"])
def test_a_gate_that_is_not_enforced_lets_pass_and_says_what_did(run: Run, mode: str) -> None:
    results = run(judged(mode))
    assert run.latest("use").manifest.gates == {
        "make": {"passed": False, "mode": mode, "allowed_by": f"make.gate={mode}"}
    }
    assert results[0].verdict is not None
    assert results[0].verdict.mode == mode


def test_a_gate_switched_on_later_holds_what_was_made_while_it_was_off(run: Run) -> None:
    run(judged("off"))
    with pytest.raises(GateError):
        run(judged("enforce"))


def test_a_result_carries_the_mode_of_this_invocation(run: Run) -> None:
    run(judged("off"))
    (result,) = run(judged("report"), last="make")
    assert result.cached
    assert result.verdict is not None
    assert result.verdict.mode == "report"


def test_a_stage_that_judges_nothing_refuses_nothing(tmp_path: Path) -> None:
    gated = Stage(
        name="last",
        number=3,
        version=1,
        run=END.run,
        reads=("end",),
        consumes={"use": ("out.txt",)},
        gated_by=("use",),
    )
    run = Run(tmp_path, (MAKE, USE, gated))
    assert run.done()["last"] == "v001"
    assert run.latest("last").manifest.gates == {}


def test_another_version_that_passed_can_be_chosen(run: Run) -> None:
    run()
    failed = judged(text="other")
    with pytest.raises(GateError):
        run(failed)
    assert run.done(failed, use={"make": "v001"}) == {"use": "v001*", "end": "v001*"}


def test_a_dry_run_foresees_a_refusal_and_records_nothing(run: Run) -> None:
    run(judged(), last="make")
    before = run.journal()
    plans = [(s.name, action, *why) for s, action, why in run.runner(judged()).plans()]
    assert plans == [
        ("make", "cached", "v001"),
        ("use", "refused", "gate of make v001"),
        ("end", "depends", "on use"),
    ]
    allowed = run.runner(judged(), allow_failed_gate=True).plans()
    assert [action for _, action, _ in allowed] == ["cached", "run", "depends"]
    assert run.journal() == before
