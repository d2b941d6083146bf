"""Stage 3: what it asks, what it writes, and a real base with a real adapter."""

from __future__ import annotations

import json
import logging
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from evaluation_fakes import ColourEngine, colour_sample, systems_of
from judge_server import honest, judge_server
from model_folders import contract_of, encoder_of, model_folder, table_sample
from vlmpipe.config import parse_config
from vlmpipe.config.judge import JudgeConfig
from vlmpipe.engines.hf import HfEngine
from vlmpipe.errors import ArtifactError, ConfigError
from vlmpipe.evaluation.memory import peak_memory_mib, reset_peak_memory
from vlmpipe.evaluation.records import read_records
from vlmpipe.evaluation.report import write_report
from vlmpipe.evaluation.validation.identity import identities
from vlmpipe.evaluation.validation.judged import refuse_unusable
from vlmpipe.evaluation.validation.subjects import Subjects, open_subjects
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.families import family_of
from vlmpipe.pipeline import StageContext
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.pipeline.fingerprint import settings_read
from vlmpipe.stages.s3_validate import VALIDATE, Asked, asked_samples, validate
from vlmpipe.stages.s4_merge import MERGE

SEEN = {"#ff0000": "red", "#00ff00": "green"}
HELD = {"#0000ff": "blue", "#000000": "black"}


def context_of(folder: Path, **rules) -> StageContext:
    folder.mkdir(parents=True, exist_ok=True)
    return StageContext(
        config=parse_config({"validate": rules}),
        folder=folder,
        upstream={},
        run_folder=folder.parent,
        log_path=folder / "log",
        log=logging.getLogger("test"),
        reporter=SilentReporter(),
    )


def validated(folder: Path, engines, splits, general=(), **rules):
    context = context_of(folder, **rules)
    limit = context.config.validation.max_new_tokens
    subjects = Subjects(engines, vocabulary=1000)
    return validate(context, subjects, systems_of(limit), Asked(splits, general))


def outcome_of(folder: Path, tuned: dict[str, str], heldout=HELD, general=(), **rules):
    engines = {"base": ColourEngine("base", {"": "?"}), "tuned": ColourEngine("tuned", tuned)}
    splits = {
        "train": [colour_sample(name, colour, name) for colour, name in SEEN.items()],
        "heldout": [colour_sample(name, colour, name) for colour, name in heldout.items()],
    }
    return validated(folder, engines, splits, general, **rules)


def test_metrics_are_named_and_finite(tmp_path):
    metrics = outcome_of(tmp_path, {**SEEN, **HELD}).metrics
    for name in (
        "heldout/exact_match/base",
        "train/agreement/tuned",
        "heldout/cer/tuned",
        "reliance/image_gain/tuned",
        "speed/tokens_per_second/tuned",
        "speed/seconds_per_answer/tuned",
        "memory/peak_mib",
    ):
        assert name in metrics
    assert metrics["heldout/exact_match/tuned"] == 1.0
    assert metrics["memory/peak_mib"] > 1


def test_every_answer_is_written_with_its_reference(tmp_path):
    outcome_of(tmp_path, {**SEEN, **HELD})
    records = list(read_records(tmp_path / "predictions.jsonl"))
    assert len(records) == 2 * 4
    tuned = [record for record in records if record.engine == "hf:adapter"]
    assert [record.prediction for record in tuned] == [record.reference for record in tuned]


def test_results_hold_intervals_pairs_and_every_verdict(tmp_path):
    general = [colour_sample("known", "#ffffff", "?"), colour_sample("unknown", "#eeeeee", "x")]
    outcome_of(tmp_path, {**SEEN, **HELD}, general=general)
    results = json.loads((tmp_path / "results.json").read_text())
    low, high = results["intervals"]["heldout/cer/base"]
    assert low <= results["metrics"]["heldout/cer/base"] <= high
    assert results["paired"]["heldout/exact_match"]["difference"] == 1.0
    assert [each["name"] for each in results["verdicts"]] == [
        "overfit",
        "forgetting",
        "image_reliance",
    ]
    assert results["general"]["samples"] == 2
    assert results["phases"] is None


def test_a_judge_s_verdicts_stand_beside_the_metrics(tmp_path):
    with judge_server(honest) as server:
        asked = {"base_url": server.url, "model": "judge", "max_retries": 0}
        outcome = outcome_of(tmp_path / "work", {**SEEN, **HELD}, judge=asked)
    results = json.loads((tmp_path / "work" / "results.json").read_text())
    assert results["judge"]["engines"] == ["hf:base", "hf:adapter"]
    assert results["judge"]["wins"] == {"hf:base": 0, "hf:adapter": 2}
    assert (tmp_path / "judge" / "hf-base_vs_hf-adapter.jsonl").is_file()
    assert any(line.startswith("judge judge: hf:adapter wins 2 of 2") for line in outcome.summary)


def test_a_judge_that_cannot_be_asked_is_told_before_models_are_loaded(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judge = JudgeConfig(base_url="http://127.0.0.1:9/v1", model="m", api_key_env="NO_SUCH_KEY")
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        refuse_unusable(judge, ["qa"])


def test_what_only_changes_how_a_judge_is_reached_is_not_in_the_fingerprint():
    judge = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "concurrency": 3}
    read = settings_read(VALIDATE, parse_config({"validate": {"judge": judge}}))
    assert read["validate.judge.model"] == "m"
    assert "validate.judge.concurrency" not in read


def test_numbers_that_are_none_stay_out_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation_fakes.UNKNOWN_LOSS", float("nan"))
    outcome = outcome_of(tmp_path, {**SEEN}, general=[colour_sample("a", "#ffffff", "x")])
    assert not outcome.verdict.passed

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    for text in [*lines, (tmp_path / "results.json").read_text()]:
        json.loads(text, parse_constant=refuse)


def test_pictures_for_the_report_are_small_and_named(tmp_path):
    from vlmpipe.evaluation.validation.results import PICTURE_SIDE

    wide = colour_sample("wide", "#123456", "x")
    turn = wide.messages[0]
    large = Image.new("RGB", (3000, 40), "blue")
    sample = wide.__class__("wide", (turn.__class__("user", (large, "?")), wide.messages[1]), "qa")
    engines = {"base": ColourEngine("base", {}), "tuned": ColourEngine("tuned", {})}
    validated(tmp_path, engines, {"train": [sample], "heldout": []})
    results = json.loads((tmp_path / "results.json").read_text())
    (name,) = results["gallery"][0]["pictures"]
    with Image.open(tmp_path / name) as image:
        assert max(image.size) == PICTURE_SIDE
    assert large.size == (3000, 40)


def test_verdict_carries_every_reason(tmp_path):
    verdict = outcome_of(tmp_path, {"": "red"}, min_image_gain=0.1).verdict
    assert not verdict.passed
    assert len(verdict.reasons) == 2
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["reasons"] == list(verdict.reasons)


def test_empty_heldout_split_is_told_and_passes(tmp_path):
    outcome = outcome_of(tmp_path, {**SEEN}, heldout={})
    assert outcome.verdict.passed
    assert not any(name.startswith("heldout/") for name in outcome.metrics)
    assert any("no sample was held out" in line for line in outcome.summary)


def test_what_it_writes_is_what_the_report_reads(tmp_path):
    from report_fakes import publish

    outcome = outcome_of(tmp_path / "work", {**SEEN, **HELD})
    files = {
        str(path.relative_to(tmp_path / "work")): path.read_bytes()
        for path in (tmp_path / "work").rglob("*")
        if path.is_file()
    }
    publish(tmp_path / "run", "validate", files=files, metrics=dict(outcome.metrics), passed=True)
    page = write_report(tmp_path / "run").read_text()
    assert page.count("<img ") == 4
    assert "hf:adapter" in page


def test_what_the_phases_left_is_read_here_and_forces_no_merge():
    assert set(MERGE.consumes["train"]) == {"adapter/*", "model/*", "preprocess_contract.json"}
    assert {*MERGE.consumes["train"], "phases/*"} == set(VALIDATE.consumes["train"])
    assert "validate" in VALIDATE.reads


def test_the_first_training_samples_are_the_probes(tmp_path):
    from vlmpipe.data.prepare import prepare_data

    tree = {
        "data": {"task": "qa", "synthetic": {"n": 12}, "heldout_fraction": 0.25},
        "validate": {"train_probes": 4, "heldout_samples": 2},
    }
    config = parse_config(tree)
    prepare_data(config, tmp_path / "data", reporter=SilentReporter())
    splits = asked_samples(config, tmp_path / "data")
    assert {name: len(samples) for name, samples in splits.items()} == {"train": 4, "heldout": 2}


def test_samples_of_files_are_asked_of_every_task(tmp_path):
    """One file after the other: the first samples are all of one task."""
    from vlmpipe.data.prepare import prepare_data

    sources = []
    for task, count in (("qa", 40), ("table", 20)):
        rows = (
            {
                "id": f"{task}-{number:02d}",
                "messages": [
                    {"role": "user", "content": f"{task} question {number}"},
                    {"role": "assistant", "content": f"answer {number}"},
                ],
            }
            for number in range(count)
        )
        path = tmp_path / f"{task}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources.append({"path": str(path), "format": "messages", "task": task})
    tree = {
        "data": {"sources": sources, "heldout_fraction": 0.5},
        "validate": {"train_probes": 3, "heldout_samples": 12},
    }
    config = parse_config(tree)
    prepare_data(config, tmp_path / "data", reporter=SilentReporter())
    splits = asked_samples(config, tmp_path / "data")
    tasks = {name: [sample.task for sample in samples] for name, samples in splits.items()}
    assert sorted(tasks["train"]) == ["qa", "qa", "table"]
    assert 2 <= tasks["heldout"].count("table") <= 6
    assert {"qa", "table"} == set(tasks["heldout"][:2]), "the first few are of every task too"
    again = asked_samples(config, tmp_path / "data")
    assert [each.id for each in again["heldout"]] == [each.id for each in splits["heldout"]]


def test_a_threshold_may_name_the_peak_of_memory(tmp_path):
    most = {"memory/peak_mib": 1e9}
    assert outcome_of(tmp_path / "met", {**SEEN, **HELD}, thresholds=most).verdict.passed
    missed = outcome_of(tmp_path / "missed", {**SEEN, **HELD}, thresholds={"memory/peak_mib": 1})
    [reason] = missed.verdict.reasons
    assert "memory/peak_mib is" in reason
    assert "above its threshold 1" in reason
    results = json.loads((tmp_path / "met" / "results.json").read_text())
    assert results["metrics"]["memory/peak_mib"] > 1


def test_records_name_the_weights_of_the_versions_that_were_compared(tmp_path):
    """Not those of the latest ones: `--use` may have chosen others."""
    from report_fakes import publish

    contract = contract_of(family_of(model_folder("random-qwen2_5_vl"))).model_dump_json()
    for version in ("v001", "v002"):
        weights = {"adapter/adapter_model.safetensors": version}
        publish(
            tmp_path,
            "train",
            files={**weights, "preprocess_contract.json": contract},
            version=version,
        )
    base = {"model.json": '{"id": "embedded:x"}', "model/model.safetensors": "base"}
    publish(tmp_path, "setup", files=base)
    upstream = {
        "setup": tmp_path / "1_setup" / "v001",
        "train": tmp_path / "2_train" / "v001",
    }
    engines = {"base": ColourEngine("hf:base", {}), "tuned": ColourEngine("hf:adapter", {})}
    found = identities(parse_config({}), upstream, engines)
    adapter = found["tuned"].digests["adapter/adapter_model.safetensors"]
    assert adapter == sha256(b"v001").hexdigest()
    assert "adapter/adapter_model.safetensors" not in found["base"].digests
    assert (found["base"].model_name, found["base"].lora_enabled) == ("embedded:x", False)
    assert (found["tuned"].merge_state, found["tuned"].engine_version) == (
        "adapter",
        "colours 1.0",
    )


def test_peak_memory_is_measured_from_the_reset_on():
    import numpy as np

    block = np.ones(64 << 20, dtype=np.uint8)
    with_block = peak_memory_mib()
    del block
    reset_peak_memory()
    before = peak_memory_mib()
    assert before <= with_block
    block = np.ones(64 << 20, dtype=np.uint8)
    assert peak_memory_mib() >= before + 48
    del block


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny base with an adapter that changes it, as train hands it on."""
    import torch

    from training_runs import tiny_config
    from vlmpipe.models.loading import load_model
    from vlmpipe.training.adapter import make_trainable

    base = model_folder("random-qwen2_5_vl")
    family, folder = family_of(base), tmp_path_factory.mktemp("train")
    model = make_trainable(load_model(base), family, tiny_config(method="lora").train, seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    model.save_pretrained(folder / "adapter")
    contract_of(family).write(folder)
    return BaseModelFolder(base, family, "embedded:x", "r", "digest", 0), folder


def config_of(method: str):
    return parse_config({"model": {"dtype": "float32"}, "train": {"method": method}})


@pytest.mark.slow
def test_base_is_the_base_and_tuned_is_not(trained):
    from vlmpipe.models.loading import load_model

    base, folder = trained
    sample = table_sample(3)
    plain = HfEngine(load_model(base.folder), encoder_of("random-qwen2_5_vl"), "plain")
    expected = plain.score(sample.prompt, sample.reference).loss
    with open_subjects(config_of("lora"), base, folder) as subjects:
        found = {
            name: engine.score(sample.prompt, sample.reference).loss
            for name, engine in subjects.engines.items()
        }
    assert found["base"] == pytest.approx(expected, abs=1e-5)
    assert abs(found["tuned"] - expected) > 0.01


@pytest.mark.slow
def test_quantised_base_goes_through_the_whole_stage(trained, tmp_path):
    base, folder = trained
    context = context_of(tmp_path / "work", max_new_tokens=8)
    splits = {"train": [table_sample(0)], "heldout": [table_sample(1), table_sample(2)]}
    with open_subjects(config_of("qlora"), base, folder) as subjects:
        outcome = validate(context, subjects, systems_of(8), Asked(splits, [table_sample(3)]))
    assert outcome.metrics["heldout/loss/base"] != outcome.metrics["heldout/loss/tuned"]
    assert "reliance/image_gain/tuned" in outcome.metrics
    assert outcome.metrics["speed/tokens_per_second/tuned"] > 0
    assert (tmp_path / "work" / "results.json").is_file()


@pytest.mark.slow
def test_full_training_compares_two_models(trained, tmp_path):
    from vlmpipe.models.embedded import build_embedded

    base, _ = trained
    build_embedded("random-qwen2_5_vl", tmp_path / "model")
    contract_of(base.family).write(tmp_path)
    sample = table_sample(1)
    with open_subjects(config_of("full"), base, tmp_path) as subjects:
        losses = [e.score(sample.prompt, sample.reference).loss for e in subjects.engines.values()]
        assert subjects.engines["tuned"].name == "hf:full"
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.slow
def test_an_adapter_of_another_model_is_an_artifact_error(trained):
    _, folder = trained
    other = model_folder("random-qwen3")
    wrong = BaseModelFolder(other, family_of(other), "embedded:y", "r", "digest", 0)
    with (
        pytest.raises(ArtifactError, match="does not go onto this base model"),
        open_subjects(config_of("lora"), wrong, folder),
    ):
        pass
