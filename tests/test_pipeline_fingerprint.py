"""What a stage's result depends on, and what `status` says when it changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_fakes import END, MAKE, STAGES, USE, FakeConfig, Run
from vlmpipe.pipeline import Outcome, Stage, StageContext
from vlmpipe.pipeline.fingerprint import HashIndex, canonical_json, explain, fingerprint_of, flatten


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def with_external(path: Path) -> Stage:
    return replace(MAKE, external=lambda config: {"samples.jsonl": path})


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical_json({"b": 1, "a": {"d": "한", "c": 2}}) == '{"a":{"c":2,"d":"한"},"b":1}'
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 1.5})


def test_settings_are_flat_and_lists_stay_whole() -> None:
    tree = {"a": {"b": {"c": 1}, "list": [{"x": 1}]}, "empty": {}}
    assert flatten(tree) == {"a.b.c": 1, "a.list": [{"x": 1}]}


def test_a_setting_that_is_read_makes_only_what_depends_on_it_again(run: Run) -> None:
    run()
    changed = FakeConfig(use={"times": 3})
    assert run.states(changed) == {
        "make": ("current",),
        "use": ("stale", "use.times"),
        "end": ("stale", "stage use is stale"),
    }
    assert run.done(changed) == {"make": "v001*", "use": "v002", "end": "v002"}
    assert run.told[1] == "use started: use.times"


def test_a_setting_that_is_not_read_changes_nothing(run: Run) -> None:
    run()
    other = FakeConfig(run={"name": "other"}, make={"verdict": "passed"})
    assert set(run.done(other).values()) == {"v001*"}


def test_ignored_keys_and_gates_are_not_hashed(run: Run) -> None:
    run()
    assert run.done(FakeConfig(make={"gate": "off"}, use={"gate": "report"})) == {
        "make": "v001*",
        "use": "v001*",
        "end": "v001*",
    }
    assert "make.verdict" not in run.latest("make").manifest.settings
    assert "make.gate" not in run.latest("make").manifest.settings


def test_a_consumer_depends_on_hand_off_files_alone(run: Run) -> None:
    run()
    noted = FakeConfig(make={"note": "measured anew"})
    assert run.done(noted) == {"make": "v002", "use": "v001*", "end": "v001*"}
    spoken = FakeConfig(make={"text": "other"})
    assert run.done(spoken) == {"make": "v003", "use": "v002", "end": "v002"}


def test_a_changed_hand_off_file_is_named(run: Run) -> None:
    run()
    run(FakeConfig(make={"text": "other"}), last="make")
    assert run.states(FakeConfig(make={"text": "other"}))["use"] == ("stale", "make/data/text.txt")


def test_the_verdict_is_consumed_and_its_mode_is_not(run: Run) -> None:
    run(FakeConfig(make={"verdict": "passed"}))
    failed = FakeConfig(make={"verdict": "too low", "gate": "report"})
    assert run.done(failed, force=frozenset({"make"})) == {
        "make": "v002",
        "use": "v002",
        "end": "v001*",
    }
    assert run.told[1] == "use started: verdict of make"
    off = FakeConfig(make={"verdict": "too low", "gate": "off"})
    assert run.done(off)["use"] == "v002*"


def test_a_verdict_measured_anew_that_stays_the_same_runs_nothing_again(run: Run) -> None:
    run()
    assert run.done(force=frozenset({"make"})) == {"make": "v002", "use": "v001*", "end": "v001*"}


def test_the_stage_version_is_hashed(tmp_path: Path) -> None:
    Run(tmp_path)()
    newer = Run(tmp_path, (MAKE, replace(USE, version=2), END))
    assert newer.states()["use"] == ("stale", "the stage itself changed (version 2)")
    assert newer.done() == {"make": "v001*", "use": "v002", "end": "v001*"}


def test_the_pinned_tool_is_hashed_and_named(tmp_path: Path) -> None:
    def tool(version: str) -> Callable[[], dict[str, str]]:
        return lambda: {"llama.cpp": version}

    Run(tmp_path, (replace(MAKE, tools=tool("1")), USE, END))()
    newer = Run(tmp_path, (replace(MAKE, tools=tool("2")), USE, END))
    assert newer.states()["make"] == ("stale", "tool llama.cpp")


def test_an_outside_file_is_hashed_by_content(tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_text("one")
    run = Run(tmp_path, (with_external(samples), USE, END))
    run()
    os.utime(samples, (1, 1))
    assert run.done()["make"] == "v001*"
    samples.write_text("two")
    assert run.states()["make"] == ("stale", "samples.jsonl")
    samples.unlink()
    assert run.states()["make"] == ("stale", "samples.jsonl")
    samples.write_text("one")
    assert run.states()["make"] == ("current",)


def test_an_outside_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, known = tmp_path / "samples.jsonl", tmp_path / ".hashes.json"
    samples.write_text("one")
    index = HashIndex(known)
    digest = index.sha256(samples)
    index.save()
    monkeypatch.setattr("vlmpipe.pipeline.fingerprint.sha256_of", lambda path: "hashed again")
    assert HashIndex(known).sha256(samples) == digest
    samples.write_text("three")
    assert HashIndex(known).sha256(samples) == "hashed again"


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1'])
def test_a_damaged_memory_of_hashes_is_no_fault(tmp_path: Path, text: str) -> None:
    known = tmp_path / ".hashes.json"
    known.write_text(text)
    index = HashIndex(known)
    assert len(index.sha256(known)) == 64
    index.save()
    assert str(known) in json.loads(known.read_text())


def test_a_file_that_cannot_be_read_has_no_digest(tmp_path: Path) -> None:
    index = HashIndex(tmp_path / "known")
    assert index.sha256(tmp_path / "none") == "missing"
    assert index.sha256(tmp_path) == "unreadable"


def test_every_difference_is_explained_absent_and_null_told_apart() -> None:
    now = {"stage_version": 1, "settings": {"a.b": None}, "upstream": {"make": {}}}
    now |= {"external": {}, "tools": {}, "verdicts": {"make": None}}
    before = {**now, "settings": {}, "verdicts": {}, "upstream": {"gone": {"file": "x"}}}
    assert explain(before, now) == ["a.b", "verdict of make", "gone/file"]


def test_library_versions_and_the_device_are_recorded_and_not_hashed(run: Run) -> None:
    run(facts={"libraries": {"torch": "1"}}, argv=("vlmpipe", "run-all"), git_commit="abc")
    assert set(run.done(facts={"libraries": {"torch": "2"}}, git_commit="d").values()) == {"v001*"}
    manifest = run.latest("make").manifest
    assert manifest.facts == {"libraries": {"torch": "1"}, "device": "none"}
    assert manifest.git_commit == "abc"


def test_a_stage_gated_by_one_it_does_not_consume_still_waits_for_it(tmp_path: Path) -> None:
    def nothing(context: StageContext) -> Outcome:
        assert set(context.upstream) == {"make"}
        return Outcome()

    gated = Stage(name="gated", number=1, version=1, run=nothing, gated_by=("make",))
    assert Run(tmp_path, (MAKE, gated)).done() == {"make": "v001", "gated": "v001"}
    assert STAGES[1].inputs == ("make",)
