"""The deploy stage over a real converted model."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from serving_models import Conversions, Converted, quantised
from vlmpipe.config import Config, load_config
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.errors import ConfigError
from vlmpipe.export.parity.probes import select_probes
from vlmpipe.pipeline import Outcome, StageContext
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.pipeline.files import write_json
from vlmpipe.serving.quants import served_files
from vlmpipe.serving.settings import read_settings
from vlmpipe.serving.smoke import SmokeResult
from vlmpipe.stages.s6_deploy import DEPLOY


def converted_stage(folder: Path, converted: Converted) -> Path:
    """A folder as convert publishes it."""
    (folder / "gguf").mkdir(parents=True)
    files = [converted.gguf, *([converted.mmproj] if converted.mmproj else [])]
    for file in files:
        (folder / "gguf" / file.name).write_bytes(file.read_bytes())
    converted.contract.write(folder)
    write_json(
        folder / "artifacts.json",
        {
            "quants": {"f16": converted.gguf.name},
            "mmproj": converted.mmproj.name if converted.mmproj else None,
            "recommended": "f16",
            "excluded": {},
        },
    )
    return folder


def setup_stage(folder: Path, *, vision: bool) -> Path:
    """A folder as setup publishes it, with two samples in each split."""
    from datasets import Dataset

    from vlmpipe.data.rows import features, to_row

    image = Image.linear_gradient("L").resize((150, 97)).convert("RGB")
    parts: tuple[Any, ...] = (image, "Read it.") if vision else ("What is 12 + 7?",)
    messages = (Message("user", parts), Message("assistant", ("19",)))
    (folder / "data").mkdir(parents=True)
    for split in ("heldout", "train"):
        rows = [
            to_row(Sample(id=f"{split}{n}", messages=messages, task="table"), weight=1.0)
            for n in range(2)
        ]
        path = folder / "data" / f"{split}.parquet"
        Dataset.from_list(rows, features=features()).to_parquet(path)
    return folder


def deploy(run: Path, converted: Converted, config: Config) -> tuple[Path, Outcome]:
    """Run the stage's function; the folder that it wrote and what it handed back."""
    folder = run / "6_deploy" / "v001.partial"
    folder.mkdir(parents=True)
    vision = converted.mmproj is not None
    setup = setup_stage(run / "setup", vision=vision)
    grid = converted.contract.grid
    (run / "merge").mkdir()
    select_probes(setup / "data", 2, grid).write(run / "merge", grid)
    upstream: Mapping[str, Path] = {
        "setup": setup,
        "merge": run / "merge",
        "convert": converted_stage(run / "convert", converted),
    }
    context = StageContext(
        config=config,
        folder=folder,
        upstream=upstream,
        run_folder=run,
        log_path=run / "deploy.log",
        log=logging.getLogger("test"),
        reporter=SilentReporter(),
    )
    return folder, DEPLOY.run(context)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random-qwen2_5_vl", "random-qwen3"])
def test_deploy_tunes_starts_tests_and_describes_the_service(
    name: str, conversions: Conversions, tmp_path: Path
) -> None:
    config = load_config((), ("deploy.load_requests=3", "deploy.max_new_tokens=24"))
    folder, outcome = deploy(tmp_path, conversions.of(name), config)
    record = json.loads((folder / "deploy.json").read_text())
    assert outcome.verdict is not None
    assert outcome.verdict.passed, outcome.verdict.reasons
    names = [test["name"] for test in record["smoke_tests"]]
    assert len(names) >= 8
    assert ("an image counts its tokens" in names) is ("vl" in name)
    assert record["load_test"]["requests"] == 3
    assert outcome.metrics["deploy/latency_p95_s"] >= outcome.metrics["deploy/latency_p50_s"] > 0
    assert len(record["context_length"]["measured"]) >= 2
    assert record["speedup_over_hf"] is None
    assert any("not measured" in line for line in outcome.summary)
    settings = read_settings(folder / "bundle")
    assert settings.n_threads == record["threads"]["value"]
    assert settings.n_ctx == record["context_length"]["value"]
    settings.verify(folder / "bundle")
    ladder = json.loads((folder / "parity.json").read_text())
    (rung,) = ladder["rungs"]
    assert rung == record["parity"]
    assert (rung["rung"], rung["against"]) == ("served", "gguf f16 in process")
    assert (rung["passed"], rung["exact_match"], rung["top1_agreement"]) == (True, 1.0, 1.0)
    assert rung["kld_mean"] < 1e-9
    assert rung["answers"] == ladder["probe"]["asked"] == 2
    assert rung["tokens"] > 0
    assert any(
        line.startswith("served against gguf f16 in process: KLD") for line in outcome.summary
    )
    assert outcome.metrics["deploy/parity/exact_match"] == 1.0


SHORT = ("deploy.load_requests=1", "deploy.threads=1", "deploy.context_length=1024")
SHORTER = (*SHORT, "deploy.max_new_tokens=8", "deploy.parity_probes=1")


@pytest.mark.slow
def test_another_file_in_the_bundle_fails_the_verdict_by_name(
    conversions: Conversions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmpipe.serving.bundle import place_model

    converted = conversions.of("random-qwen2_5_vl")

    def place_another(bundle: Path, gguf: Path, mmproj: Path | None) -> tuple[str, str | None]:
        placed = place_model(bundle, gguf, mmproj)
        (bundle / placed[0]).unlink()
        quantised(gguf, bundle / placed[0])
        return placed

    monkeypatch.setattr("vlmpipe.stages.s6_deploy.place_model", place_another)
    folder, outcome = deploy(tmp_path, converted, load_config((), SHORTER))
    assert outcome.verdict is not None
    (reason,) = outcome.verdict.reasons
    assert "is not the f16 file that convert published" in reason
    (rung,) = json.loads((folder / "parity.json").read_text())["rungs"]
    assert not rung["passed"]
    assert rung["why"] in reason
    assert rung["answers"] == 1


@pytest.mark.slow
def test_a_service_that_fails_a_smoke_test_has_no_rung_that_passes(
    conversions: Conversions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = [SmokeResult("GET /health", False, "status 500")]
    monkeypatch.setattr("vlmpipe.stages.s6_deploy.smoke_test", lambda *_, **__: failed)
    folder, outcome = deploy(tmp_path, conversions.of("random-qwen3"), load_config((), SHORTER))
    (rung,) = json.loads((folder / "parity.json").read_text())["rungs"]
    assert (rung["passed"], rung["kld_mean"]) == (False, None)
    assert "a smoke test failed" in rung["why"]
    assert outcome.verdict is not None
    assert len(outcome.verdict.reasons) == 2


@pytest.mark.slow
def test_nothing_in_the_bundle_names_where_it_was_made(
    conversions: Conversions, tmp_path: Path
) -> None:
    folder, _ = deploy(tmp_path, conversions.of("random-qwen2_5_vl"), load_config((), SHORTER))
    texts = [path for path in (folder / "bundle").rglob("*") if path.suffix != ".gguf"]
    for path in filter(Path.is_file, [*texts, folder / "deploy.json"]):
        assert str(tmp_path) not in path.read_text(), path


@pytest.mark.slow
def test_a_type_that_was_not_converted_is_refused_with_those_that_were(
    conversions: Conversions, tmp_path: Path
) -> None:
    config = load_config((), ("deploy.quant=q2_k",))
    with pytest.raises(ConfigError) as raised:
        deploy(tmp_path, conversions.of("random-qwen3"), config)
    assert "deploy.quant=f16" in str(raised.value)


def test_a_file_that_convert_excluded_is_not_served_by_name(tmp_path: Path) -> None:
    (tmp_path / "gguf").mkdir()
    for name in ("f16.gguf", "q2_k.gguf"):
        (tmp_path / "gguf" / name).touch()
    why = "KL divergence 0.8 nats a token, limit 0.15"
    artifacts = {
        "quants": {"f16": "f16.gguf", "q2_k": "q2_k.gguf"},
        "mmproj": None,
        "recommended": "f16",
        "excluded": {"q2_k": why},
    }
    write_json(tmp_path / "artifacts.json", artifacts)
    assert served_files(tmp_path, None).quant == "f16"
    with pytest.raises(ConfigError, match="convert excluded this file: KL divergence") as caught:
        served_files(tmp_path, "q2_k")
    assert any("parity.max_kld.q2_k" in remedy for remedy in caught.value.remedies)
