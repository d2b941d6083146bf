"""Stages merge and convert over hand-made upstream folders."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import export_models as models
from vlmpipe.config import Config, parse_config
from vlmpipe.config.train import QuantizationSection
from vlmpipe.data.prepare import prepare_data
from vlmpipe.encoding.contract import read_contract
from vlmpipe.errors import ConfigError, StageError, ToolError
from vlmpipe.export.gguf.metadata import contract_of, lineage_of, verify_seal
from vlmpipe.export.merging.card import base_name, flat_facts
from vlmpipe.models.adapter_base import record_adapter_base
from vlmpipe.models.base import read_base, resolve_base
from vlmpipe.pipeline import Outcome, StageContext
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.pipeline.manifest import Manifest
from vlmpipe.stages.s4_merge import MERGE
from vlmpipe.stages.s5_convert import CONVERT

FAMILY = "qwen2_5_vl"
NO_SERVER = "http://127.0.0.1:9"


def config_of(merge: Any = None, parity: Any = None, **convert: Any) -> Config:
    return parse_config(
        {
            "run": {"name": "Demo"},
            "model": {"id": f"embedded:random-{FAMILY}"},
            "data": {"synthetic": {"n": 4, "difficulty": [0.0, 0.1]}},
            "merge": merge or {},
            "parity": {"probes": 2, "max_new_tokens": 8, **(parity or {})},
            "convert": {"quants": ["q8_0"], "ollama_url": NO_SERVER, **convert},
        }
    )


def context_of(config: Config, root: Path, name: str, upstream: dict[str, Path]) -> StageContext:
    folder = root / name / "v001.partial"
    folder.mkdir(parents=True)
    return StageContext(
        config=config,
        folder=folder,
        upstream=upstream,
        run_folder=root,
        log_path=root / f"{name}.log",
        log=logging.getLogger("vlmpipe"),
        reporter=SilentReporter(),
    )


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What setup, train and validate would have published."""
    root, config = tmp_path_factory.mktemp("upstream"), config_of()
    folders = {name: root / name for name in ("setup", "train", "validate")}
    for folder in folders.values():
        folder.mkdir()
    base = resolve_base(config.model, folders["setup"])
    prepare_data(config, folders["setup"] / "data", SilentReporter())
    models.random_adapter(base.folder, FAMILY, folders["train"] / "adapter")
    record_adapter_base(
        folders["train"] / "adapter", base, dtype="bfloat16", quantization=QuantizationSection()
    )
    contract = models.contract_of(FAMILY)
    contract.model_copy(update={"context_length": 2048}).write(folders["train"])
    metrics = {"heldout/teds/tuned": 0.25, "speed/tokens_per_second/tuned": 9.0}
    manifest = Manifest(
        stage="validate",
        number=3,
        fingerprint="f",
        fingerprint_parts={},
        settings={},
        inputs={},
        outputs={},
        metrics=metrics,
    )
    manifest.write(folders["validate"])
    return folders


@pytest.fixture(scope="module")
def merge(
    upstream: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Outcome]:
    context = context_of(config_of(), tmp_path_factory.mktemp("run"), "4_merge", upstream)
    return context.folder, MERGE.run(context)


@pytest.fixture(scope="module")
def convert(
    upstream: dict[str, Path],
    merge: tuple[Path, Outcome],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[Path, Outcome]]:
    def run(**settings: Any) -> tuple[Path, Outcome]:
        root = tmp_path_factory.mktemp("run")
        folders = {**upstream, "merge": merge[0]}
        context = context_of(config_of(**settings), root, "5_convert", folders)
        return context.folder, CONVERT.run(context)

    return run


@pytest.mark.slow
def test_merge_hands_on_a_model_a_contract_and_its_proof(
    upstream: dict[str, Path], merge: tuple[Path, Outcome]
) -> None:
    folder, outcome = merge
    info = json.loads((folder / "merge_info.json").read_text())
    card = (folder / "model" / "README.md").read_text()
    base = read_base(upstream["setup"])
    assert outcome.verdict is not None
    assert outcome.verdict.passed
    assert info["changed"] == info["adapted"] == 14
    assert (info["rank"], info["scale"], info["dtype"]) == (models.RANK, 2.0, "bfloat16")
    assert info["digests"]["base"] == base.digest
    assert info["choice"]["base"] == "w16"
    assert read_contract(folder) == read_contract(upstream["train"])
    assert "| heldout/teds/tuned | 0.25 |" in card
    assert "speed/" not in card
    assert base.digest in card
    assert "| train.samples | 3 |" in card


@pytest.mark.slow
def test_convert_hands_on_tried_files(convert: Callable[..., tuple[Path, Outcome]]) -> None:
    folder, outcome = convert()
    artifacts = json.loads((folder / "artifacts.json").read_text())
    table = json.loads((folder / "quant_table.json").read_text())
    modelfile = (folder / "Modelfile").read_text()
    assert artifacts["quants"] == {
        "f16": "Demo-finetune-f16.gguf",
        "q8_0": "Demo-finetune-q8_0.gguf",
    }
    assert artifacts["mmproj"] == "Demo-finetune-mmproj-f16.gguf"
    assert (artifacts["recommended"], artifacts["excluded"]) == ("q8_0", {})
    assert all((folder / "gguf" / name).is_file() for name in artifacts["quants"].values())
    assert all(row["kld_mean"] < 0.02 for row in table["rows"])
    assert all(10 < row["memory_mib"] < 500 for row in table["rows"])
    ladder = json.loads((folder / "parity.json").read_text())
    assert [(each["rung"], each["against"]) for each in ladder["rungs"]] == [
        ("merged", "adapter on w16"),
        ("merged", "adapter"),
        ("f16", "merged"),
        ("f16", "adapter"),
        ("f16, runtime's resize", "merged"),
        ("q8_0", "f16"),
        ("q8_0", "adapter"),
    ]
    assert ladder["recommended"] == "q8_0"
    assert not list(folder.glob("scratch*"))
    assert "FROM ./gguf/Demo-finetune-q8_0.gguf\nFROM ./gguf/Demo-finetune-mmproj" in modelfile
    assert outcome.verdict is not None
    assert outcome.verdict.passed
    assert any(
        "no Ollama server answered" in line and "5_convert/latest/Modelfile" in line
        for line in outcome.summary
    )


@pytest.mark.slow
def test_files_tell_which_merge_and_which_base_they_come_from(
    upstream: dict[str, Path],
    merge: tuple[Path, Outcome],
    convert: Callable[..., tuple[Path, Outcome]],
) -> None:
    folder, _ = convert(imatrix=True, quants=["q4_k_m"], mmproj_type="q8_0")
    info = json.loads((merge[0] / "merge_info.json").read_text())
    base = read_base(upstream["setup"])
    names = sorted(path.name for path in (folder / "gguf").iterdir())
    assert names == [f"Demo-finetune-{each}.gguf" for each in ("f16", "mmproj-q8_0", "q4_k_m")]
    for name in names:
        path = folder / "gguf" / name
        lineage = lineage_of(path)
        assert lineage is not None
        assert lineage.merged_sha256 == info["digests"]["merged"]
        assert lineage.trained_sha256 == info["digests"]["trained"]
        assert (lineage.run, lineage.base) == ("Demo", f"{base.id}@{base.revision}")
        assert contract_of(path) == read_contract(merge[0])
        assert verify_seal(path)
    assert (folder / "imatrix.gguf").is_file()
    assert json.loads((folder / "artifacts.json").read_text())["imatrix"] == "imatrix.gguf"


@pytest.mark.slow
def test_files_beyond_their_limits_are_excluded_and_f16_fails_the_verdict_with_its_fault(
    convert: Callable[..., tuple[Path, Outcome]],
) -> None:
    folder, outcome = convert(parity={"max_kld": {"f16": 0, "q8_0": 0}})
    artifacts = json.loads((folder / "artifacts.json").read_text())
    ladder = json.loads((folder / "parity.json").read_text())
    assert set(artifacts["excluded"]) == {"f16", "q8_0"}
    assert artifacts["recommended"] == "f16"
    assert outcome.verdict is not None
    assert not outcome.verdict.passed
    assert "parity.max_kld.f16" in outcome.verdict.reasons[0]
    assert "no quant is left: q8_0" in outcome.verdict.reasons[1]
    assert any(line.startswith("not offered to Ollama: f16") for line in outcome.summary)
    # Nothing is wrong but the limit: no part departs before the text, nor does the base pass.
    assert ladder["diagnosis"]["part"] == "text"
    assert ladder["diagnosis"]["at_fault"] == "conversion"
    assert ladder["diagnosis"]["control"]["rung"] == "base (gguf)"


@pytest.mark.slow
def test_unknown_type_is_refused_before_anything_is_written(
    upstream: dict[str, Path], merge: tuple[Path, Outcome], tmp_path: Path
) -> None:
    folders = {**upstream, "merge": merge[0]}
    context = context_of(config_of(quants=["q9_k"]), tmp_path, "5_convert", folders)
    with pytest.raises(ConfigError, match="q9_k"):
        CONVERT.run(context)
    assert list(context.folder.iterdir()) == []


@pytest.mark.slow
def test_a_missing_compressor_is_told_before_anything_is_written(
    upstream: dict[str, Path], merge: tuple[Path, Outcome], tmp_path: Path
) -> None:
    config = config_of(vllm="fp8", vllm_python=str(tmp_path / "nothing"))
    context = context_of(config, tmp_path, "5_convert", {**upstream, "merge": merge[0]})
    with pytest.raises(ToolError, match="llm-compressor") as caught:
        CONVERT.run(context)
    assert any("convert.vllm=null" in remedy for remedy in caught.value.remedies)
    assert list(context.folder.iterdir()) == []


def test_training_that_handed_on_nothing_is_refused(
    upstream: dict[str, Path], tmp_path: Path
) -> None:
    empty = tmp_path / "train"
    empty.mkdir()
    read_contract(upstream["train"]).write(empty)
    context = context_of(config_of(), tmp_path, "4_merge", {**upstream, "train": empty})
    with pytest.raises(StageError, match="neither an adapter nor a trained model"):
        MERGE.run(context)


@pytest.mark.slow
def test_auto_folds_into_both_bases_and_keeps_the_better(
    upstream: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(merge={"base": "auto"})
    context = context_of(config, tmp_path, "4_merge", upstream)
    outcome = MERGE.run(context)
    choice = json.loads((context.folder / "merge_info.json").read_text())["choice"]
    found = choice["candidates"]
    assert set(found) == {"w16", "dequant"}
    assert found["dequant"]["kld_adapter"] < found["w16"]["kld_adapter"] / 10
    assert choice["base"] == min(
        found, key=lambda each: (-found[each]["metric"], found[each]["loss"])
    )
    assert sorted(path.name for path in context.folder.glob("model*")) == ["model"]
    assert any(line.startswith(f"folded into {choice['base']}") for line in outcome.summary)


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "reason"), [("merged", "the fold"), ("drift", "drift from")])
def test_a_merge_beyond_its_limit_fails_the_gate_by_name(
    upstream: dict[str, Path], tmp_path: Path, limit: str, reason: str
) -> None:
    config = config_of(parity={"max_kld": {limit: 0}})
    outcome = MERGE.run(context_of(config, tmp_path, "4_merge", upstream))
    assert outcome.verdict is not None
    assert [each.startswith(reason) for each in outcome.verdict.reasons] == [True]
    assert f"parity.max_kld.{limit}" in outcome.verdict.reasons[0]


def test_card_shows_no_path_of_this_machine(upstream: dict[str, Path]) -> None:
    base = read_base(upstream["setup"])
    local = type(base)(base.folder, base.family, str(base.folder), "r", "d", 1)
    assert base_name(base) == f"embedded:random-{FAMILY}"
    assert base_name(local) == "model"
    assert flat_facts({"a": {"b": 1}, "c": [1], "d": "x|y\nz"}) == {"a.b": "1", "d": "x\\|y z"}


def test_ollama_settings_do_not_make_convert_stale() -> None:
    assert {"convert.ollama_url", "convert.ollama_name"} <= set(CONVERT.ignores)
    assert CONVERT.tools()["llama-cpp-python"]
