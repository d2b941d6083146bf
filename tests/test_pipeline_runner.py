"""Versions, the cache, and what an invocation may ask for."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_fakes import END, MAKE, STAGES, USE, FakeConfig, Run, content, failing
from vlmpipe.errors import ArtifactError, ConfigError, StageError
from vlmpipe.pipeline import Outcome, Stage, StageContext
from vlmpipe.pipeline.status import departure_of


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "outputs")


def test_a_second_run_is_cached_and_runs_nothing(run: Run) -> None:
    assert run.done() == {"make": "v001", "use": "v001", "end": "v001"}
    before = content(run.store.folder)
    assert run.done() == {"make": "v001*", "use": "v001*", "end": "v001*"}
    assert run.told == ["make cached: v001", "use cached: v001", "end cached: v001"]
    assert content(run.store.folder) == before


def test_latest_is_a_relative_link_that_follows_what_is_asked_for(run: Run) -> None:
    run()
    link = run.folder("use") / "latest"
    assert os.readlink(link) == "v001"
    run(FakeConfig(use={"times": 3}))
    assert os.readlink(link) == "v002"
    assert run.done()["use"] == "v001*"
    assert os.readlink(link) == "v001"
    assert (link / "out.txt").read_text() == "hellohello"


def test_latest_is_never_absent_while_it_is_replaced(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    seen = []
    link, replace_file = run.folder("use") / "latest", Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append(os.readlink(link))
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    run.store.point_latest(run.stage("use"), "v001")
    assert seen == ["v001"]
    assert [path.name for path in run.folder("use").iterdir() if "tmp" in path.name] == []


def test_published_versions_never_change(run: Run) -> None:
    run()
    before = content(run.folder("use") / "v001")
    run(FakeConfig(use={"times": 3}))
    run(force=frozenset({"use"}))
    assert content(run.folder("use") / "v001") == before
    assert sorted(p.name for p in run.folder("use").iterdir()) == ["latest", "v001", "v002", "v003"]


def test_a_number_is_not_given_twice(run: Run) -> None:
    run()
    run(FakeConfig(use={"times": 3}))
    shutil.rmtree(run.folder("use") / "v001")
    assert run.done(FakeConfig(use={"times": 4}))["use"] == "v003"


def test_a_manifest_says_what_a_version_is(run: Run) -> None:
    run(argv=("vlmpipe", "run-all"), git_commit="abc")
    manifest = run.latest("use").manifest
    made = run.latest("make").manifest
    assert (manifest.schema_version, manifest.stage, manifest.number) == (1, "use", 1)
    assert manifest.settings == {"use.times": 2}
    taken = manifest.inputs["make"]
    assert taken["version"] == "v001"
    assert taken["fingerprint"] == made.fingerprint
    assert taken["files"] == {"data/text.txt": made.outputs["data/text.txt"].sha256}
    assert manifest.outputs["out.txt"].size == len("hellohello")
    assert manifest.gates == {"make": {"passed": True, "mode": "enforce"}}
    assert manifest.argv == ["vlmpipe", "run-all"]
    assert manifest.timings["seconds"] >= 0
    assert made.metrics == {"make/length": 5.0}
    assert made.verdict is not None
    assert made.verdict.passed
    assert set(made.outputs) == {"data/text.txt", "times.log"}


def test_a_metric_that_is_no_number_is_told_and_not_recorded(tmp_path: Path) -> None:
    def diverge(context: StageContext) -> Outcome:
        return Outcome(metrics={"loss": float("nan"), "steps": 3.0}, summary=("trained",))

    run = Run(tmp_path, (Stage(name="train", number=0, version=1, run=diverge),))
    (result,) = run()
    assert result.summary == ("trained", "loss is nan")
    assert run.latest("train").manifest.metrics == {"steps": 3.0}
    assert run.states() == {"train": ("current",)}


def test_a_manifest_of_a_stage_s_own_below_the_top_is_a_file_like_any_other(
    tmp_path: Path,
) -> None:
    def write(context: StageContext) -> Outcome:
        (context.folder / "bundle").mkdir()
        (context.folder / "bundle" / "manifest.json").write_text("{}")
        return Outcome()

    run = Run(tmp_path, (Stage(name="bundle", number=0, version=1, run=write),))
    run()
    assert set(run.latest("bundle").manifest.outputs) == {"bundle/manifest.json"}


def test_force_runs_a_stage_again_and_its_equal_result_runs_nothing_else(run: Run) -> None:
    run()
    assert run.done(force=frozenset({"make"})) == {"make": "v002", "use": "v001*", "end": "v001*"}
    assert run.told[0] == "make started: --force"


def test_use_takes_a_published_version_and_leaves_its_stage_alone(run: Run) -> None:
    run(FakeConfig(make={"text": "old"}))
    run(FakeConfig(make={"text": "new"}))
    assert run.done(FakeConfig(make={"text": "new"}), use={"make": "v001"}) == {
        "use": "v001*",
        "end": "v001*",
    }
    assert os.readlink(run.folder("make") / "latest") == "v002"
    assert (run.folder("end") / "latest" / "end.txt").read_text() == "oldold!"


@pytest.mark.parametrize("name", ["v009", "latest", "../make/v001", "v1", ""])
def test_use_of_what_was_never_published_names_what_was(run: Run, name: str) -> None:
    run()
    with pytest.raises(ArtifactError, match="published: v001") as caught:
        run(use={"make": name})
    assert caught.value.exit_code == 4


def test_from_and_to_run_a_part_of_the_road(run: Run) -> None:
    assert run.done(last="use") == {"make": "v001", "use": "v001"}
    assert run.done(first="use") == {"use": "v001*", "end": "v001"}
    assert run.done(first="use", last="use") == {"use": "v001*"}


def test_a_part_says_when_it_takes_an_input_of_other_settings(run: Run) -> None:
    run()
    changed = FakeConfig(make={"text": "other"}, end={"suffix": "?"})
    assert run.done(changed, first="end") == {"end": "v002"}
    assert run.told[0] == "taking use v001 as it is, though stale: stage make is stale"
    run(changed, first="end", use={"use": "v001"})
    run(FakeConfig(end={"suffix": "?"}), first="end")
    assert run.told == ["end cached: v002"]


def test_what_is_latest_is_held_against_the_settings(run: Run) -> None:
    other = FakeConfig(end={"suffix": "?"})
    assert departure_of("end", STAGES, FakeConfig(), run.store) is None
    run()
    assert departure_of("end", STAGES, FakeConfig(), run.store) is None
    assert departure_of("end", STAGES, other, run.store) == "v001 is stale: end.suffix"
    run(other)
    made_before = "v002 was made with other settings, v001 with these"
    assert departure_of("end", STAGES, FakeConfig(), run.store) == made_before


def test_a_part_whose_inputs_were_never_made_names_the_ways_out(run: Run) -> None:
    with pytest.raises(ArtifactError, match="end needs stage use") as caught:
        run(first="end")
    assert "`vlmpipe run-all --to end`" in caught.value.remedies[0]
    assert caught.value.stage == "end"


@pytest.mark.parametrize(
    "options",
    [
        {"first": "trian"},
        {"last": "trian"},
        {"force": frozenset({"trian"})},
        {"use": {"trian": "v001"}},
    ],
)
def test_an_unknown_stage_is_refused_with_the_names(run: Run, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="trian") as caught:
        run(**options)
    assert caught.value.remedies == ("stages: make, use, end",)
    assert not run.store.folder.exists()


def test_contradictions_are_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match="--from end comes after --to make"):
        run(first="end", last="make")
    run()
    with pytest.raises(ConfigError, match="make is given both to --force"):
        run(use={"make": "v001"}, force=frozenset({"make"}))


def test_a_dry_run_says_what_would_run_and_touches_nothing(run: Run) -> None:
    def plans(config: FakeConfig | None = None, **options: object) -> list[tuple[object, ...]]:
        return [(s.name, action, *why) for s, action, why in run.runner(config, **options).plans()]

    assert plans() == [
        ("make", "run", "never published"),
        ("use", "depends", "on make"),
        ("end", "depends", "on use"),
    ]
    assert not run.store.folder.exists()
    run()
    before = content(run.store.folder)
    assert [plan[1:] for plan in plans()] == [("cached", "v001")] * 3
    assert plans(FakeConfig(use={"times": 3}))[1:] == [
        ("use", "run", "use.times"),
        ("end", "depends", "on use"),
    ]
    assert plans(force=frozenset({"end"}))[2] == ("end", "run", "--force")
    assert [plan[0] for plan in plans(first="use", use={"use": "v001"})] == ["end"]
    assert content(run.store.folder) == before


def test_a_failed_stage_leaves_its_work_for_inspection_and_publishes_nothing(
    tmp_path: Path,
) -> None:
    broken = Run(tmp_path, (MAKE, replace(USE, run=failing()), END))
    with pytest.raises(RuntimeError, match="boom") as caught:
        broken(command="vlmpipe run-all -c a.yaml")
    log = broken.store.folder / "logs" / "1_use.log"
    notes = caught.value.__notes__
    assert f"log: {log}" in notes
    assert "in stage use" in notes
    assert "then go on with: vlmpipe run-all -c a.yaml" in notes
    assert "RuntimeError: boom" in log.read_text()
    assert broken.store.latest(USE) is None
    assert (broken.folder("use") / "v001.partial" / "half.txt").read_text() == "half"
    assert Run(tmp_path).done() == {"make": "v001*", "use": "v001", "end": "v001"}
    assert "half.txt" not in content(broken.folder("use") / "v001")


def test_an_expected_failure_names_stage_log_and_the_command_that_goes_on(tmp_path: Path) -> None:
    def refuse(context: StageContext) -> Outcome:
        raise StageError("no samples", "give some: data.sources")

    run = Run(tmp_path, (MAKE, replace(USE, run=refuse)))
    with pytest.raises(StageError) as caught:
        run(command="vlmpipe run-all x=1")
    assert caught.value.stage == "use"
    assert caught.value.remedies == (
        "give some: data.sources",
        f"log: {tmp_path / 'run' / 'logs' / '1_use.log'}",
        "then go on with: vlmpipe run-all x=1",
    )


def test_a_failure_before_a_stage_began_does_not_name_an_older_log(run: Run) -> None:
    run()
    (run.folder("make") / "latest" / "data" / "text.txt").unlink()
    with pytest.raises(ArtifactError) as caught:
        run(first="use", config=FakeConfig(use={"times": 9}))
    assert not [remedy for remedy in caught.value.remedies if remedy.startswith("log:")]


def test_the_resuming_command_forces_what_was_not_made_again_yet(tmp_path: Path) -> None:
    Run(tmp_path)()
    broken = Run(tmp_path, (MAKE, replace(USE, run=failing()), END))
    runner = broken.runner(
        force=frozenset({"make", "use"}), resume=lambda names: f"resume {sorted(names)}"
    )
    with pytest.raises(RuntimeError) as caught:
        runner.run()
    assert "then go on with: resume ['use']" in caught.value.__notes__


def counting(resumable: bool) -> Stage:
    """A stage that counts its attempts in its folder and fails the first time."""

    def count(context: StageContext) -> Outcome:
        attempts = context.folder / "attempts"
        with attempts.open("a") as stream:
            stream.write("x")
        if context.config.tree["use"].get("fails"):
            raise RuntimeError("boom")
        return Outcome()

    return Stage(
        name="count",
        number=0,
        version=1,
        run=count,
        reads=("use.times",),
        resumable=resumable,
    )


@pytest.mark.parametrize(
    ("resumable", "times", "attempts"),
    [(True, 2, "xx"), (False, 2, "x"), (True, 3, "x")],
    ids=["resumed", "not resumable", "other settings"],
)
def test_an_interrupted_attempt_is_handed_back_only_to_the_same_resumable_work(
    tmp_path: Path, resumable: bool, times: int, attempts: str
) -> None:
    run = Run(tmp_path, (counting(resumable),))
    with pytest.raises(RuntimeError):
        run(FakeConfig(use={"times": 2, "fails": True}))
    run(FakeConfig(use={"times": times, "fails": False}))
    assert (run.folder("count") / "latest" / "attempts").read_text() == attempts
    assert sorted(p.name for p in run.folder("count").iterdir()) == ["latest", "v001"]
    assert set(content(run.folder("count") / "v001")) == {"attempts", "manifest.json"}


def test_a_version_whose_latest_was_not_yet_pointed_to_is_found(run: Run) -> None:
    run()
    (run.folder("use") / "latest").unlink()
    assert run.done()["use"] == "v001*"
    assert os.readlink(run.folder("use") / "latest") == "v001"


def test_a_folder_without_a_manifest_was_never_published(run: Run) -> None:
    run()
    (run.folder("use") / "v001" / "manifest.json").unlink()
    assert run.states()["use"] == ("missing", "never published")
    assert run.done() == {"make": "v001*", "use": "v002", "end": "v001*"}


def test_a_version_removed_by_hand_is_made_again(run: Run) -> None:
    run()
    shutil.rmtree(run.folder("use") / "v001")
    assert run.states()["use"] == ("missing", "never published")
    assert run.states()["end"] == ("stale", "stage use is missing")
    assert run.done()["use"] == "v001"


def uncached(text: list[str]) -> Stage:
    """A stage that is run every time and writes what the list holds."""

    def write(context: StageContext) -> Outcome:
        (context.folder / "found.txt").write_text(text[0])
        return Outcome(summary=(f"run {len(text)}",))

    return Stage(name="look", number=0, version=1, run=write, cached=False)


def test_an_uncached_stage_publishes_only_what_is_new(tmp_path: Path) -> None:
    found = ["same"]
    run = Run(tmp_path, (uncached(found),))
    assert run.done() == {"look": "v001"}
    found.append("")
    (result,) = run()
    assert (result.version, result.cached, result.summary) == ("v001", False, ("run 2",))
    assert run.states() == {"look": ("current",)}
    assert sorted(p.name for p in run.folder("look").iterdir()) == ["latest", "v001"]
    found[0] = "other"
    assert run.done() == {"look": "v002"}


def test_an_uncached_stage_mends_its_damaged_version(tmp_path: Path) -> None:
    run = Run(tmp_path, (uncached(["same"]),))
    run()
    (run.folder("look") / "v001" / "found.txt").write_text("sbme")
    assert run.done() == {"look": "v002"}
    assert run.states() == {"look": ("current",)}


def test_every_publication_is_in_the_journal(run: Run) -> None:
    run(command="vlmpipe run-all x=1")
    assert [(e["event"], e["stage"], e["version"]) for e in run.journal()] == [
        ("published", stage.name, "v001") for stage in STAGES
    ]
    assert {entry["command"] for entry in run.journal()} == {"vlmpipe run-all x=1"}


def test_a_run_s_folder_that_cannot_be_made_is_told_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(ConfigError, match="cannot write to the run's folder") as caught:
        Run(tmp_path / "outputs")()
    assert "run.outputs_dir=DIR" in caught.value.remedies[0]
