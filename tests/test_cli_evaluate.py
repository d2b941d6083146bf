"""`vlmpipe evaluate` on a finished run: real engines, real samples, a kill and a second go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_files import SHARED_DATA
from road import Finished, Road, kill_when
from vlmpipe.evaluation.records import read_records

pytestmark = pytest.mark.slow

QUICK = ("--max-new-tokens", "8", "--reliance", "0")


@pytest.fixture
def road(finished_run: tuple[Road, Finished], tmp_path: Path) -> Road:
    return finished_run[0].copy(tmp_path)


def records(road: Road, name: str):
    return list(read_records(road.folder / "predictions" / f"{name}.jsonl"))


def test_every_engine_of_a_run_is_asked_the_held_out_samples(road):
    found = road.run("evaluate", *QUICK, "--json").json
    names = [each["engine"] for each in found["engines"]]
    assert names == ["hf:base", "hf:adapter", "hf:merged", "llama_cpp:f16", "llama_cpp:q8_0"]
    assert found["against"] == "hf:adapter"
    assert all(each["summary"]["answered"] == 2 for each in found["engines"])
    adapter, merged = records(road, "hf-adapter"), records(road, "hf-merged")
    assert [r.sample for r in adapter] == [r.sample for r in merged]
    assert {r.quantization for r in adapter} == {"nf4"}
    assert {r.merge_state for r in merged} == {"merged"}
    assert all(r.loss is not None and r.token_accuracy is not None for r in adapter + merged)
    assert Path(found["report"]).is_file()


def test_an_adapter_switched_off_answers_as_the_base_does(road):
    words = ("--engines", "hf:base,hf:adapter_off", "--against", "hf:base", "--json")
    base, off = road.run("evaluate", *QUICK, *words).json["engines"]
    assert off["same_answers"] == 1.0
    assert off["summary"]["metrics"]["loss"]["value"] == pytest.approx(
        base["summary"]["metrics"]["loss"]["value"], rel=1e-5
    )
    (first, *_) = records(road, "hf-adapter_off")
    assert (first.lora_enabled, first.merge_state) == (False, "base")


def test_digests_are_those_of_the_files_that_were_asked(road):
    road.run("evaluate", *QUICK, "--engines", "hf:adapter,llama_cpp:q8_0")
    outputs = road.manifest("convert")["outputs"]
    stated = {Path(name).name: each["sha256"] for name, each in outputs.items()}
    for name, digest in records(road, "llama_cpp-q8_0")[0].digests.items():
        assert digest == stated[name]
    digests = records(road, "hf-adapter")[0].digests
    trained = road.manifest("train")["outputs"]["adapter/adapter_model.safetensors"]["sha256"]
    assert digests["adapter/adapter_model.safetensors"] == trained
    assert "model/model.safetensors" in digests


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared sample data is not here")
def test_real_samples_of_tables_receipts_and_molecules_are_asked(road):
    for folder in ("tables_pubtabnet", "receipts_sroie", "molecules_clef2012"):
        data = SHARED_DATA / folder / "samples.jsonl"
        words = ("--data", str(data), "--limit", "2", "--engines", "hf:adapter,llama_cpp:q8_0")
        found = road.run("evaluate", *QUICK, *words, "--json").json
        assert [each["summary"]["answered"] for each in found["engines"]] == [2, 2], folder


def test_a_killed_evaluation_goes_on_where_it_was(road):
    path = road.folder / "predictions" / "llama_cpp-q8_0.jsonl"
    words = ("--data", "train", "--engines", "llama_cpp:q8_0", *QUICK)
    process = road.start("evaluate", *words)
    kill_when(process, lambda: path.exists() and path.read_bytes().count(b"\n") >= 1)
    before = [r.sample for r in read_records(path)]
    found = road.run("evaluate", *words)
    assert f"{len(before)} answered before" in found.stdout
    after = [r.sample for r in read_records(path)]
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == 4


def test_mistakes_are_told_with_their_ways_out(road):
    found = road.run("evaluate", "--engines", "hf:merge,llama_cpp:q9,nonsense", code=2)
    for words in (
        "did you mean hf:merged?",
        "convert made f16, q8_0, not 'q9'",
        "there is no kind of engine 'nonsense'",
        "--engines hf:base,hf:adapter,hf:merged,llama_cpp:f16,llama_cpp:q8_0",
    ):
        assert words in found.stderr
    assert "did you mean run.name=micro" in road.run("evaluate", "run.name=mikro", code=2).stderr
    assert (
        "--against hf:base"
        in road.run("evaluate", "--engines", "hf:adapter", "--against", "hf:base", code=2).stderr
    )


def test_a_server_that_is_not_there_does_not_stop_the_others(road):
    words = ("--engines", "openai:http://127.0.0.1:9/v1,llama_cpp:q8_0", *QUICK)
    found = road.run("evaluate", *words, code=5)
    assert "openai:http://127.0.0.1:9/v1" in found.stderr
    assert len(records(road, "llama_cpp-q8_0")) == 2


def test_the_report_shows_the_engines_side_by_side(road):
    road.run("evaluate", *QUICK, "--engines", "hf:adapter,llama_cpp:q8_0")
    page = (road.folder / "report.html").read_text(encoding="utf-8")
    assert "llama_cpp:q8_0" in page
    summary = road.folder / "predictions" / "llama_cpp-q8_0.summary.json"
    assert json.loads(summary.read_text())["system"]["quantization"] == "q8_0"
