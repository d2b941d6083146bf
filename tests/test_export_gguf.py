"""Merged models to GGUF files, held against transformers; types, names and failures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import export_models as models
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines.hf import HfEngine
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.errors import ArtifactError, ConfigError, StageError, ToolError
from vlmpipe.export.gguf.file_set import GgufSet, Wanted, make_files
from vlmpipe.export.gguf.files import Converter, GgufFile, GgufNames, pre_tokenizer
from vlmpipe.export.gguf.header import check_header, read_header
from vlmpipe.export.gguf.quants import known_quants, quant_types
from vlmpipe.models.families import FAMILIES
from vlmpipe.models.loading import load_model, load_tokenizer
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.system.llama_cpp import LlamaCppSources, llama_cpp_sources


@pytest.fixture(scope="session")
def sources() -> LlamaCppSources:
    return llama_cpp_sources(None, SilentReporter())


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            made[family] = models.merged_folder(family, tmp_path_factory.mktemp(family))
        return made[family]

    return of


@pytest.fixture(scope="module")
def text_file(
    merged: Callable[[str], Path],
    sources: LlamaCppSources,
    tmp_path_factory: pytest.TempPathFactory,
) -> GgufFile:
    folder = tmp_path_factory.mktemp("f16")
    return converter(sources, merged("qwen3"), "qwen3", folder).convert("f16")


def converter(sources: LlamaCppSources, model: Path, family: str, folder: Path) -> Converter:
    names = GgufNames(folder, "demo")
    return Converter(sources, model, FAMILIES[family], names, folder / "convert.log")


def loss_in_llama_cpp(made: GgufSet, quant: str, family: str) -> float:
    sample = models.sample_of(family)
    engine = LlamaCppEngine(
        made.files[quant].path, made.mmproj, models.contract_of(family), name=quant
    )
    try:
        return engine.score(sample.prompt, sample.reference).loss
    finally:
        engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("family", models.FAMILY_NAMES)
def test_converted_files_are_as_sure_of_the_answer_as_the_merged_model(
    family: str, merged: Callable[[str], Path], sources: LlamaCppSources, tmp_path: Path
) -> None:
    model, known = merged(family), FAMILIES[family]
    made = make_files(
        converter(sources, model, family, tmp_path),
        Wanted(known_quants(["q8_0"]), ("f16", 1) if known.has_vision else None),
        SilentReporter(),
    )
    encoder = Encoder(load_tokenizer(model), models.contract_of(family))
    sample = models.sample_of(family)
    reference = HfEngine(load_model(model), encoder, "hf").score(sample.prompt, sample.reference)
    names = {path.name for path in tmp_path.glob("*.gguf")}
    expected = {"demo-finetune-f16.gguf", "demo-finetune-q8_0.gguf"}
    assert names == expected | ({"demo-finetune-mmproj-f16.gguf"} if known.has_vision else set())
    assert (made.mmproj is not None) == known.has_vision
    assert loss_in_llama_cpp(made, "f16", family) == pytest.approx(reference.loss, abs=0.01)
    assert loss_in_llama_cpp(made, "q8_0", family) == pytest.approx(reference.loss, abs=0.1)


@pytest.mark.slow
def test_any_type_of_the_quantiser_can_be_asked_for(
    text_file: GgufFile,
    merged: Callable[[str], Path],
    sources: LlamaCppSources,
    tmp_path: Path,
) -> None:
    tools = converter(sources, merged("qwen3"), "qwen3", tmp_path)
    types = known_quants(["q2_k", "iq4_nl", "q4_0"])
    files = {name: tools.quantise(text_file, name, types[name], 2) for name in types}
    sizes = {name: file.path.stat().st_size for name, file in files.items()}
    assert [file.path.name for file in files.values()] == [
        "demo-finetune-q2_k.gguf",
        "demo-finetune-iq4_nl.gguf",
        "demo-finetune-q4_0.gguf",
    ]
    assert files["q2_k"].header.types["q2_k"] > 0
    assert sizes["q2_k"] < sizes["q4_0"] < text_file.path.stat().st_size


@pytest.mark.slow
def test_type_that_needs_an_importance_matrix_is_a_tool_error_with_its_words(
    text_file: GgufFile,
    merged: Callable[[str], Path],
    sources: LlamaCppSources,
    tmp_path: Path,
) -> None:
    tools = converter(sources, merged("qwen3"), "qwen3", tmp_path)
    with pytest.raises(ToolError, match=r"quantising .* to iq1_s") as caught:
        tools.quantise(text_file, "iq1_s", quant_types()["iq1_s"], 2)
    assert caught.value.problems
    assert any("convert.log" in remedy for remedy in caught.value.remedies)


@pytest.mark.slow
def test_weights_beyond_f16_become_bf16(
    merged: Callable[[str], Path], sources: LlamaCppSources, tmp_path: Path
) -> None:
    wide = Path(shutil.copytree(merged("qwen3"), tmp_path / "wide"))
    weights = load_file(wide / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(weights, wide / "model.safetensors", metadata={"format": "pt"})
    made = make_files(
        converter(sources, wide, "qwen3", tmp_path),
        Wanted(known_quants(["q8_0"]), None),
        SilentReporter(),
    )
    assert list(made.files) == ["bf16", "q8_0"]
    assert made.files["bf16"].header.types["bf16"] > 0


@pytest.mark.slow
def test_tower_saved_under_transformers_own_names_is_found(
    merged: Callable[[str], Path], sources: LlamaCppSources, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(merged("qwen2_vl"), tmp_path / "model"))
    path = model / "model.safetensors"
    weights = {
        f"model.{key}" if key.startswith("visual.") else key: value
        for key, value in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})
    tools = converter(sources, model, "qwen2_vl", tmp_path)
    stored = sum(key.startswith("model.visual.") for key in weights)
    assert tools.convert("f16", mmproj=True).header.tensors > stored


def test_converter_failure_shows_its_last_words_and_the_log(
    merged: Callable[[str], Path], sources: LlamaCppSources, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(merged("qwen3"), tmp_path / "broken"))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchModel"]}))
    with pytest.raises(ToolError, match="ended with exit code 1") as caught:
        converter(sources, broken, "qwen3", tmp_path).convert("f16")
    assert any("NoSuchModel" in line for line in caught.value.problems)
    assert any(str(tmp_path / "convert.log") in remedy for remedy in caught.value.remedies)


def test_unknown_type_is_refused_with_near_misses() -> None:
    with pytest.raises(ConfigError, match="knows no q4_k_n, zzz") as caught:
        known_quants(["q8_0", "q4_k_n", "zzz"])
    assert caught.value.exit_code == 2
    assert "q4_k_m" in caught.value.problems[0]
    assert caught.value.problems[1] == "zzz: unknown"


def test_types_carry_llama_cpps_numbers() -> None:
    import llama_cpp

    types = quant_types()
    assert types["q2_k"] == llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K
    assert types["f32"] == llama_cpp.LLAMA_FTYPE_ALL_F32
    assert "guessed" not in types


def test_foreign_pre_tokenizer_is_refused(merged: Callable[[str], Path], tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    text = (merged("qwen3") / "tokenizer.json").read_text(encoding="utf-8")
    (model / "tokenizer.json").write_text(text.replace(r"|\\p{N}|", r"|\\p{N}{1,3}|"))
    assert pre_tokenizer(merged("qwen3"), FAMILIES["qwen3"]) == "qwen2"
    with pytest.raises(StageError, match=r"not llama\.cpp's pre-tokenizer 'qwen2'"):
        pre_tokenizer(model, FAMILIES["qwen3"])


def test_file_that_is_no_gguf_is_refused(sources: LlamaCppSources, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUX" + bytes(64))
    with pytest.raises(ArtifactError, match="not a readable GGUF file"):
        read_header(path, sources)


@pytest.mark.slow
def test_file_of_another_architecture_is_refused(
    text_file: GgufFile, sources: LlamaCppSources
) -> None:
    with pytest.raises(ArtifactError, match=r"architecture 'qwen3'.*needs 'qwen2vl'"):
        check_header(text_file.path, FAMILIES["qwen2_vl"], sources, mmproj=False)
