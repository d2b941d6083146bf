"""GGUF files against the merged model they were made of: keys, shapes, lineage, contract, seal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serving_models import Conversions, Converted, small_contract
from vlmpipe.errors import ArtifactError, ConfigError
from vlmpipe.export.gguf.check import check_mmproj, check_text
from vlmpipe.export.gguf.files import Converter, GgufFile, GgufNames
from vlmpipe.export.gguf.header import read_header
from vlmpipe.export.gguf.metadata import (
    Lineage,
    carried_texts,
    contract_of,
    lineage_of,
    refuse_strange_mmproj,
    seal,
    verify_seal,
)
from vlmpipe.export.gguf.names import merged_shapes
from vlmpipe.export.gguf.quants import NEEDS_IMATRIX, known_quants, mmproj_quant
from vlmpipe.export.merging.weights import INDEX_NAME
from vlmpipe.models.families import FAMILIES
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.system.llama_cpp import LlamaCppSources, llama_cpp_sources

FAMILY = "qwen2_5_vl"
MODEL = f"random-{FAMILY}"
LINEAGE = Lineage(run="demo", merged_sha256="ab" * 32, base="Qwen/x@1")


@pytest.fixture(scope="session")
def sources() -> LlamaCppSources:
    return llama_cpp_sources(None, SilentReporter())


@pytest.fixture(scope="module")
def converted(conversions: Conversions) -> Converted:
    return conversions.of(MODEL)


@pytest.fixture(scope="module")
def carrying(
    converted: Converted, sources: LlamaCppSources, tmp_path_factory: pytest.TempPathFactory
) -> tuple[GgufFile, GgufFile, GgufFile]:
    """Text in 16 bit, quantised, and mmproj, with lineage and contract."""
    folder = tmp_path_factory.mktemp("carrying")
    tools = converter_of(converted, sources, folder)
    text = tools.convert("f16")
    return text, tools.quantise(text, "q4_0", 2, 1), tools.convert("f16", mmproj=True)


def converter_of(converted: Converted, sources: LlamaCppSources, folder: Path) -> Converter:
    return Converter(
        sources,
        converted.model,
        FAMILIES[FAMILY],
        GgufNames(folder, "demo"),
        folder / "convert.log",
        lineage=LINEAGE,
        contract=small_contract(FAMILY),
    )


def other_config(model: Path, folder: Path, change: Callable[[dict[str, object]], None]) -> Path:
    """The same model under another config.json."""
    copy = Path(shutil.copytree(model, folder / "model"))
    config = json.loads((copy / "config.json").read_text())
    change(config)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_files_of_every_family_agree_with_their_model(
    family: str, conversions: Conversions, sources: LlamaCppSources
) -> None:
    made = conversions.of(f"random-{family}")
    known = FAMILIES[family]
    assert check_text(made.gguf, made.model, known, sources).tensors > 10
    assert (made.mmproj is not None) == known.has_vision
    if made.mmproj is not None:
        check_mmproj(made.mmproj, made.model, known, sources, made.contract)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("num_attention_heads", 8, "qwen2vl.attention.head_count: the file has 4, .* 8"),
        ("vocab_size", 4096, r"tokenizer.ggml.tokens: the file has {'length': 2048}, .* 4096"),
        ("rms_norm_eps", 1e-5, "layer_norm_rms_epsilon: the file has 9.99.*e-07, .* 1e-05"),
    ],
)
def test_a_key_that_contradicts_the_config_is_named_with_both_values(
    key: str,
    value: float,
    named: str,
    converted: Converted,
    sources: LlamaCppSources,
    tmp_path: Path,
) -> None:
    model = other_config(
        converted.model, tmp_path, lambda config: config["text_config"].update({key: value})
    )
    with pytest.raises(ArtifactError, match=named) as caught:
        check_text(converted.gguf, model, FAMILIES[FAMILY], sources)
    assert caught.value.exit_code == 4


@pytest.mark.slow
def test_tensors_that_differ_from_the_merged_model_are_named_with_both_shapes(
    converted: Converted, sources: LlamaCppSources, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(converted.model, tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    narrow = weights.pop("model.layers.0.mlp.up_proj.weight")[:-1].contiguous()
    weights["model.layers.0.mlp.up_proj.weight"] = narrow
    weights.pop("model.norm.weight")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="tensors: the file has 27, the merged model 26") as it:
        check_text(converted.gguf, model, FAMILIES[FAMILY], sources)
    faults = "\n".join(it.value.problems)
    assert "output_norm.weight: not in the merged model" in faults
    rows, columns = narrow.shape
    assert (
        f"blk.0.ffn_up.weight: the file has shape [{columns}, {rows + 1}],"
        f" the merged model [{columns}, {rows}]" in faults
    )


@pytest.mark.slow
def test_a_tied_head_that_the_checkpoint_stores_all_the_same_is_converted(
    conversions: Conversions, sources: LlamaCppSources, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(conversions.of("random-qwen3").model, tmp_path / "model"))
    assert json.loads((model / "config.json").read_text())["tie_word_embeddings"]
    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    names = GgufNames(tmp_path, "tied")
    made = Converter(sources, model, FAMILIES["qwen3"], names, tmp_path / "log").convert("f16")
    assert "output.weight" in made.header.shapes


def in_two_files(folder: Path) -> Path:
    """Two shards with their index, and a file that it does not name."""
    places = {"a.weight": "1.safetensors", "b.weight": "2.safetensors"}
    for key, name in places.items():
        save_file({key: torch.zeros(2, 3)}, folder / name)
    save_file({"stray.weight": torch.zeros(1)}, folder / "consolidated.safetensors")
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": places}))
    return folder


def test_only_the_files_that_the_index_names_are_the_model(tmp_path: Path) -> None:
    assert merged_shapes(in_two_files(tmp_path)) == {"a.weight": (2, 3), "b.weight": (2, 3)}


@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_a_spoilt_shard_of_the_merged_model_is_told_to_be_merged_again(
    fault: str, tmp_path: Path
) -> None:
    shard = in_two_files(tmp_path) / "2.safetensors"
    shard.write_bytes(b"x" * 20) if fault == "damaged" else shard.unlink()
    words = {"damaged": r"2\.safetensors cannot be read", "missing": "lacks 1 tensors.*b.weight"}
    with pytest.raises(ArtifactError, match=words[fault]) as caught:
        merged_shapes(tmp_path)
    assert any("--force merge" in remedy for remedy in caught.value.remedies)


@pytest.mark.slow
def test_another_chat_template_than_the_models_is_named(
    converted: Converted, sources: LlamaCppSources, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(converted.model, tmp_path / "model"))
    path = model / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "chat_template": "{{ messages[0] }}"}))
    with pytest.raises(
        ArtifactError, match=r"tokenizer\.chat_template: the file has .*messages\[0"
    ):
        check_text(converted.gguf, model, FAMILIES[FAMILY], sources)


@pytest.mark.slow
def test_the_mmproj_of_another_model_is_named_before_anything_loads_it(
    converted: Converted, conversions: Conversions, sources: LlamaCppSources
) -> None:
    family = FAMILIES[FAMILY]
    for name, said in {
        "random-qwen2_vl": "clip.projector_type: the file has 'qwen2vl_merger', .*2.5vl",
        "tiny": r"tensors of \d+ elements: the file has|clip\.vision\.\w+: the file has",
    }.items():
        mmproj = conversions.of(name).mmproj
        assert mmproj is not None
        with pytest.raises(ArtifactError, match=said):
            check_mmproj(mmproj, converted.model, family, sources)


@pytest.mark.slow
def test_an_mmproj_under_another_image_mean_is_refused(
    converted: Converted, sources: LlamaCppSources
) -> None:
    assert converted.mmproj is not None
    contract = small_contract(FAMILY).model_copy(update={"image_mean": (0.5, 0.5, 0.5)})
    with pytest.raises(ArtifactError, match=r"vision\.image_mean: the file has \[0\.48.*0\.5"):
        check_mmproj(converted.mmproj, converted.model, FAMILIES[FAMILY], sources, contract)


@pytest.mark.slow
def test_every_file_carries_lineage_and_contract_quantised_or_not(
    carrying: tuple[GgufFile, ...], sources: LlamaCppSources
) -> None:
    for file in carrying:
        assert lineage_of(file.path) == LINEAGE
        assert contract_of(file.path) == small_contract(FAMILY)
        fields = read_header(file.path, sources).fields
        texts = {key: value for key, value in fields.items() if isinstance(value, str)}
        assert carried_texts(file.path, [*texts, "vlmpipe.nothing"]) == texts
        assert verify_seal(file.path)


@pytest.mark.slow
def test_a_file_without_lineage_says_so(converted: Converted) -> None:
    assert lineage_of(converted.gguf) is None
    assert contract_of(converted.gguf) is None


@pytest.mark.slow
def test_an_mmproj_of_the_same_shape_from_another_merge_is_refused_by_its_lineage(
    carrying: tuple[GgufFile, ...],
    tmp_path: Path,
) -> None:
    text, _, mmproj = carrying
    refuse_strange_mmproj(text.path, mmproj.path)
    content = mmproj.path.read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(content.replace(b"ab" * 32, b"cd" * 32))
    with pytest.raises(ArtifactError, match=r"merged_sha256 is cdcdcdcdcdcd….* against abababab"):
        refuse_strange_mmproj(text.path, other)


@pytest.mark.slow
@pytest.mark.parametrize("at", [0.001, 0.5, 0.999])
def test_one_flipped_byte_breaks_the_seal_wherever_it_is(
    at: float, carrying: tuple[GgufFile, ...], tmp_path: Path
) -> None:
    for file in carrying:
        copy = Path(shutil.copy(file.path, tmp_path))
        content = bytearray(copy.read_bytes())
        content[int(len(content) * at)] ^= 1
        copy.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"sha256 .*, the file itself states"):
            verify_seal(copy)
        seal(copy)
        assert verify_seal(copy)


def test_a_file_that_carries_no_seal_is_told_apart_from_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    seal(path)
    assert path.read_bytes() == b"GGUF" + bytes(64)
    assert not verify_seal(path)


@pytest.mark.slow
def test_a_damaged_header_is_refused(
    converted: Converted, sources: LlamaCppSources, tmp_path: Path
) -> None:
    content = bytearray(converted.gguf.read_bytes())
    damaged = tmp_path / "x.gguf"
    for damage in (content[: len(content) // 2], b"\x00" + content[1:]):
        damaged.write_bytes(damage)
        with pytest.raises(ArtifactError, match="not a readable GGUF file"):
            read_header(damaged, sources)


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["q8_0", "bf16"])
def test_the_tower_is_written_in_the_type_asked_for_and_only_there(
    quant: str, converted: Converted, sources: LlamaCppSources, tmp_path: Path
) -> None:
    tools = converter_of(converted, sources, tmp_path)
    made = tools.mmproj(quant, mmproj_quant(quant), 1)
    assert made.header.types[quant] > 0
    assert [path.name for path in tmp_path.glob("*.gguf")] == [f"demo-finetune-mmproj-{quant}.gguf"]
    assert verify_seal(made.path)


def test_types_that_need_an_importance_matrix_are_refused_before_any_work() -> None:
    names = ["q8_0", "iq2_xs", "q2_k_s"]
    with pytest.raises(ConfigError, match="iq2_xs, q2_k_s cannot be written without") as caught:
        known_quants(names)
    assert any("convert.imatrix=true" in remedy for remedy in caught.value.remedies)
    assert list(known_quants(names, imatrix=True)) == names


def test_a_tower_type_is_known_and_needs_no_importance_matrix() -> None:
    with pytest.raises(ConfigError, match=r"convert\.mmproj_type: .* knows no q8_1") as caught:
        mmproj_quant("q8_1")
    assert "q8_0" in caught.value.problems[0]
    with pytest.raises(ConfigError, match=r"convert\.mmproj_type: iq1_s needs an imp"):
        mmproj_quant("iq1_s")
    assert NEEDS_IMATRIX
