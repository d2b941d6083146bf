"""Published stages as they are read from outside, and what they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report_fakes import publish
from vlmpipe.evaluation.published import departures, published_stages
from vlmpipe.evaluation.report.stages import stage_rows


def taken(run: Path, **versions: str) -> dict[str, Any]:
    """Inputs as a manifest names them, with the digests of what was taken."""
    found = {}
    for name, version in versions.items():
        [folder] = run.glob(f"*_{name}/{version}")
        manifest = published_stages(run)[name].manifest
        files = {path: record.sha256 for path, record in manifest.outputs.items()}
        found[name] = {"version": folder.name, "fingerprint": "f", "files": files}
    return found


def run_of(folder: Path) -> Path:
    """train, merge and convert, each made from the one before."""
    publish(folder, "train", files={"adapter/w": "one"})
    publish(folder, "merge", files={"model/w": "one"}, inputs=taken(folder, train="v001"))
    publish(folder, "convert", files={"gguf/w": "one"}, inputs=taken(folder, merge="v001"))
    return folder


def test_stages_made_from_what_is_there_have_not_departed(tmp_path):
    assert departures(published_stages(run_of(tmp_path))) == []


def test_a_stage_made_from_another_version_is_named_with_both(tmp_path):
    run = run_of(tmp_path)
    inputs = taken(run, train="v001")
    publish(run, "merge", files={"model/w": "two"}, version="v002", inputs=inputs)
    stages = published_stages(run)
    assert departures(stages) == ["convert v001 was made from merge v001, latest is v002"]
    rows = {row.name: row.outdated for row in stage_rows(stages, frozenset())}
    assert rows == {"train": [], "merge": [], "convert": ["made from merge v001, latest is v002"]}


def test_what_stands_on_a_stage_that_is_behind_is_behind(tmp_path):
    run = run_of(tmp_path)
    publish(run, "train", files={"adapter/w": "two"}, version="v002")
    assert departures(published_stages(run)) == [
        "merge v001 was made from train v001, latest is v002",
        "convert v001 was made from merge v001, which is behind its own inputs",
    ]


def test_the_same_files_under_another_version_are_no_departure(tmp_path):
    run = run_of(tmp_path)
    publish(run, "train", files={"adapter/w": "one", "log": "other"}, version="v002")
    assert departures(published_stages(run)) == []


def test_a_manifest_that_names_no_files_goes_by_the_version(tmp_path):
    run = run_of(tmp_path)
    publish(run, "deploy", inputs={"convert": {"version": "v000"}})
    assert departures(published_stages(run)) == [
        "deploy v001 was made from convert v000, latest is v001"
    ]
