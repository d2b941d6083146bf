"""The whole road as a person travels it: one command, again, with gates, with every family."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from data_files import SHARED_DATA
from road import NAME, STAGES, Finished, Road

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
REAL_TABLES = SHARED_DATA / "tables_pubtabnet" / "samples.jsonl"

IMPORTS_WATCHED = """
import sys
from vlmpipe.cli.app import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "datasets", "llama_cpp"} & sys.modules.keys()
    print("imported:", sorted(heavy), file=sys.stderr)
"""


def test_one_command_goes_from_nothing_to_a_published_service(
    finished_run: tuple[Road, Finished],
) -> None:
    road, done = finished_run
    assert [row["stage"] for row in done.json["stages"]] == list(STAGES)
    assert not any(row["cached"] for row in done.json["stages"])
    for number, stage in enumerate(STAGES):
        manifest = road.manifest(stage)
        assert (manifest["stage"], manifest["number"]) == (stage, number)
        assert all(math.isfinite(value) for value in manifest["metrics"].values())
    report = Path(done.json["report"])
    assert report == road.folder / "report.html"
    assert NAME in report.read_text(encoding="utf-8")


def test_metrics_are_named_by_split_metric_and_model(finished_run: tuple[Road, Finished]) -> None:
    metrics = finished_run[0].manifest("validate")["metrics"]
    expected = {
        f"{split}/{metric}/{model}"
        for split in ("train", "heldout")
        for metric in ("teds", "exact_match", "cer")
        for model in ("base", "tuned")
    }
    assert expected <= metrics.keys()


def test_convert_hands_on_the_named_files(finished_run: tuple[Road, Finished]) -> None:
    folder = finished_run[0].stage("convert") / "gguf"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{NAME}-finetune-f16.gguf",
        f"{NAME}-finetune-mmproj-f16.gguf",
        f"{NAME}-finetune-q8_0.gguf",
    ]
    assert all(path.read_bytes()[:4] == b"GGUF" for path in folder.iterdir())


def test_the_deployed_service_was_tried_and_bundled(finished_run: tuple[Road, Finished]) -> None:
    folder = finished_run[0].stage("deploy")
    described = json.loads((folder / "deploy.json").read_bytes())
    assert described["smoke_tests"]
    assert all(test["passed"] for test in described["smoke_tests"])
    assert described["load_test"]["requests"] == 2
    names = {path.name for path in (folder / "bundle").iterdir()}
    assert {"service.json", "compose.yaml", "kubernetes.yaml", "prometheus.yml"} <= names


def test_status_of_a_finished_run_is_current_in_every_stage(
    finished_run: tuple[Road, Finished],
) -> None:
    shown = finished_run[0].run("status", "--verify", "--json").json
    assert shown["run"] == NAME
    assert [(row["stage"], row["state"], row["why"]) for row in shown["stages"]] == [
        (stage, "current", []) for stage in STAGES
    ]


def test_a_second_run_finds_everything_made_and_imports_nothing_heavy(
    finished_run: tuple[Road, Finished], tmp_path: Path
) -> None:
    road = finished_run[0].copy(tmp_path)
    before = road.published()
    program = (sys.executable, "-c", IMPORTS_WATCHED)
    again = road.run("run-all", "--json", program=program)
    cached = {row["stage"]: row["cached"] for row in again.json["stages"]}
    assert cached == {stage: stage != "check" for stage in STAGES}
    assert again.stderr.splitlines()[-1] == "imported: []"
    assert road.published() == before


def test_validate_measured_anew_forces_no_merge(
    finished_run: tuple[Road, Finished], tmp_path: Path
) -> None:
    road = finished_run[0].copy(tmp_path)
    again = road.run("run-all", "--force", "validate", "--json")
    assert {row["stage"] for row in again.json["stages"] if not row["cached"]} == {
        "check",
        "validate",
    }
    assert road.stage("validate").resolve().name == "v002"
    assert road.versions("merge") == ["v001"]


def test_an_identical_retrain_in_another_place_forces_nothing_after_it(
    finished_run: tuple[Road, Finished], tmp_path: Path
) -> None:
    road = finished_run[0].copy(tmp_path)
    again = road.run("run-all", "--force", "train", "--json")
    assert {row["stage"] for row in again.json["stages"] if not row["cached"]} == {"check", "train"}
    first, second = (road.manifest("train", version)["outputs"] for version in ("v001", "v002"))
    adapter = [name for name in first if name.startswith("adapter/")]
    assert adapter
    assert all(first[name]["sha256"] == second[name]["sha256"] for name in adapter)


def test_a_gate_refuses_names_what_failed_and_lets_pass_once(
    finished_run: tuple[Road, Finished], tmp_path: Path
) -> None:
    road = finished_run[0].copy(tmp_path)
    impossible = ("validate.gate=enforce", 'validate.thresholds={"heldout/teds/tuned": 1.5}')
    refused = road.run("run-all", *impossible, code=7)
    measured = road.manifest("validate")["metrics"]["heldout/teds/tuned"]
    assert f"heldout/teds/tuned is {measured:.4g}, below its threshold 1.5" in refused.stderr
    assert "--allow-failed-gate" in refused.stderr
    assert road.versions("merge") == ["v001"]
    road.run("run-all", "--to", "merge", "--allow-failed-gate", *impossible)
    assert road.manifest("merge")["gates"]["validate"] == {
        "passed": False,
        "mode": "enforce",
        "allowed_by": "--allow-failed-gate",
    }
    again = road.run("merge", *impossible, "--json", code=7)
    assert again.json["error"]["kind"] == "GateError"
    assert again.json["error"]["problems"]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "qwen3"])
def test_every_family_goes_from_nothing_to_gguf(family: str, tmp_path: Path) -> None:
    road = Road(tmp_path)
    task = "qa" if family == "qwen3" else "table"
    road.run(
        "run-all", f"model.id=embedded:random-{family}", f"data.task={task}", "--to", "convert"
    )
    made = {path.name for path in (road.stage("convert") / "gguf").iterdir()}
    texts = {f"{NAME}-finetune-f16.gguf", f"{NAME}-finetune-q8_0.gguf"}
    vision = set() if family == "qwen3" else {f"{NAME}-finetune-mmproj-f16.gguf"}
    assert made == texts | vision
    assert road.manifest("convert")["verdict"]["passed"]


@pytest.mark.skipif(not REAL_TABLES.is_file(), reason=f"{REAL_TABLES} is not here")
def test_real_tables_are_trained_on_with_the_shipped_configuration(tmp_path: Path) -> None:
    road = Road(tmp_path, CONFIGS / "tiny.yaml")
    sources = json.dumps([{"path": str(REAL_TABLES), "format": "messages", "task": "table"}])
    few = ("train.max_steps=3", "train.gradient_accumulation=1")
    road.run("run-all", f"run.name={NAME}", f"data.sources={sources}", *few, "--to", "train")
    assert road.manifest("setup")["metrics"]["data/skipped_samples"] == 0
    assert road.manifest("train")["metrics"]["train/steps"] == 3
