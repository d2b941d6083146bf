"""Published files are held against their manifests; `status` says what is current."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline_fakes import FakeConfig, Run, content
from vlmpipe.errors import ArtifactError


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path)
    run()
    return run


def flip_a_byte(path: Path, *, keep_marks: bool = False) -> None:
    """Same size; with `keep_marks` also the same mtime, as a failing disk would leave it."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    with path.open("r+b") as stream:
        stream.write(data)
    if keep_marks:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_corrupted_byte_is_found_by_status(run: Run) -> None:
    flip_a_byte(run.folder("make") / "v001" / "data" / "text.txt")
    with pytest.raises(ArtifactError, match="stage make v001 is not what was published") as caught:
        run.status()
    assert caught.value.exit_code == 4
    (problem,) = caught.value.problems
    assert "0_make/v001/data/text.txt: sha256" in problem
    assert "`vlmpipe run-all --force make`" in caught.value.remedies[0]


def test_a_corrupted_byte_is_found_by_the_consumer(run: Run) -> None:
    flip_a_byte(run.folder("make") / "v001" / "data" / "text.txt")
    with pytest.raises(ArtifactError, match="make v001"):
        run(first="use", force=frozenset({"use"}))
    with pytest.raises(ArtifactError, match="make v001"):
        run()
    assert run.latest("use").name == "v001"


def test_a_byte_that_changed_behind_the_file_s_marks_is_found_by_the_consumer_and_by_verify(
    run: Run,
) -> None:
    flip_a_byte(run.folder("make") / "v001" / "data" / "text.txt", keep_marks=True)
    assert {row.state for row in run.status()} == {"current"}
    with pytest.raises(ArtifactError, match="make v001"):
        run.status(verify=True)
    with pytest.raises(ArtifactError, match="make v001"):
        run(FakeConfig(use={"times": 3}))
    assert not list(run.folder("use").glob("*.partial"))


def test_the_named_remedy_mends_a_corrupted_stage(run: Run) -> None:
    flip_a_byte(run.folder("make") / "v001" / "data" / "text.txt")
    assert run.done(force=frozenset({"make"})) == {"make": "v002", "use": "v001*", "end": "v001*"}
    assert {row.state for row in run.status()} == {"current"}


def test_a_missing_file_is_named(run: Run) -> None:
    (run.folder("use") / "v001" / "out.txt").unlink()
    with pytest.raises(ArtifactError) as caught:
        run.status()
    assert caught.value.problems[0].endswith("1_use/v001/out.txt: missing")
    with pytest.raises(ArtifactError, match="use v001"):
        run()


def test_a_touched_file_with_the_same_bytes_is_as_good(run: Run) -> None:
    path = run.folder("make") / "v001" / "data" / "text.txt"
    os.utime(path, (1, 1))
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)
    assert {row.state for row in run.status()} == {"current"}
    assert run.done(FakeConfig(use={"times": 3}))["use"] == "v002"


def test_a_file_that_is_not_consumed_may_be_lost_without_harm_to_the_consumer(run: Run) -> None:
    (run.folder("make") / "v001" / "times.log").unlink()
    assert run.done(FakeConfig(use={"times": 3}), first="use")["use"] == "v002"


def test_a_damaged_manifest_is_told_with_the_remedy(run: Run) -> None:
    manifest = run.folder("use") / "v001" / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    with pytest.raises(ArtifactError, match=r"1_use/v001/manifest\.json is damaged") as caught:
        run.status()
    assert caught.value.remedies[0].startswith("remove the folder")


def test_status_of_a_run_that_never_was_is_all_missing(tmp_path: Path) -> None:
    fresh = Run(tmp_path / "none")
    assert [(row.state, row.version) for row in fresh.status()] == [("missing", None)] * 3
    assert not fresh.store.folder.exists()


def test_status_names_every_key_that_changed(run: Run) -> None:
    changed = FakeConfig(make={"text": "x", "note": "y"}, end={"suffix": "?"})
    assert run.states(changed) == {
        "make": ("stale", "make.note", "make.text"),
        "use": ("stale", "stage make is stale"),
        "end": ("stale", "end.suffix"),
    }


def test_status_finds_an_older_version_that_fits_and_what_was_made_from_it(run: Run) -> None:
    changed = FakeConfig(make={"text": "x"})
    run(changed)
    rows = run.status()
    assert [(row.version, row.state) for row in rows] == [("v001", "current")] * 3
    assert [(row.version, row.state) for row in run.status(changed)] == [("v002", "current")] * 3


def test_status_changes_nothing_that_was_published(run: Run) -> None:
    before = content(run.store.folder)
    run.status()
    run.status(FakeConfig(use={"times": 3}), verify=True)
    assert content(run.store.folder) == before


def test_a_stage_that_was_not_reached_is_missing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run(last="make")
    assert run.states() == {
        "make": ("current",),
        "use": ("missing", "never published"),
        "end": ("missing", "never published"),
    }


def test_a_manifest_is_plain_json(run: Run) -> None:
    text = (run.folder("use") / "v001" / "manifest.json").read_text()
    manifest = json.loads(text)
    assert {"stage", "fingerprint", "settings", "inputs", "outputs", "timings"} <= set(manifest)
    assert set(manifest["outputs"]["out.txt"]) == {"sha256", "size", "mtime_ns", "inode"}
