"""Importance matrices: what llama.cpp's own tool measures, with images too, and their worth."""

from __future__ import annotations

import os
import subprocess
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serving_models import Conversions, Converted
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines import hf
from vlmpipe.engines.base import Forced
from vlmpipe.engines.contract_check import check_model
from vlmpipe.engines.hf import HfEngine
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.errors import StageError, ToolError
from vlmpipe.export.gguf import imatrix
from vlmpipe.export.gguf.files import Converter, GgufFile, GgufNames
from vlmpipe.export.gguf.header import read_header
from vlmpipe.export.gguf.imatrix import input_squares, spread, write_imatrix, write_squares
from vlmpipe.export.gguf.programs.child_quantise import read_imatrix
from vlmpipe.export.gguf.quants import NEEDS_IMATRIX, known_quants
from vlmpipe.export.parity.divergence import token_divergences
from vlmpipe.models.families import FAMILIES
from vlmpipe.models.loading import load_model, load_tokenizer
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.system.llama_cpp import LlamaCppSources, llama_cpp_sources
from vlmpipe.system.llama_tools import cached_tools
from vlmpipe.tasks import TASKS

FAMILY = FAMILIES["qwen2_5_vl"]
CHUNK = 128

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sources() -> LlamaCppSources:
    return llama_cpp_sources(None, SilentReporter())


@pytest.fixture(scope="module")
def tiny(conversions: Conversions) -> Converted:
    """The shipped model, whose weights have learnt something."""
    return conversions.of("tiny")


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [TASKS["table"].generate(index, 5, (0.0, 0.3)) for index in range(8)]


@pytest.fixture(scope="module")
def matrix(
    tiny: Converted,
    samples: list[Sample],
    sources: LlamaCppSources,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    return write_imatrix(tiny.model, tiny.contract, samples, path, sources)


@pytest.fixture(scope="module")
def text_file(tiny: Converted, sources: LlamaCppSources) -> GgufFile:
    return GgufFile(tiny.gguf, read_header(tiny.gguf, sources))


def importances(path: Path, sources: LlamaCppSources) -> dict[str, np.ndarray]:
    """Mean squares by tensor, as the quantiser's own child reads them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(sources.gguf_package))
        return read_imatrix(os.fspath(path))[0]


def quantised(
    tiny: Converted,
    sources: LlamaCppSources,
    source: GgufFile,
    quant: str,
    folder: Path,
    imatrix: Path | None,
) -> GgufFile:
    folder.mkdir(exist_ok=True)
    tools = Converter(sources, tiny.model, FAMILY, GgufNames(folder, "t"), folder / "log")
    return tools.quantise(
        source, quant, known_quants([quant], imatrix=True)[quant], 1, imatrix=imatrix
    )


def test_on_text_it_is_what_llama_cpps_own_tool_measures(
    tiny: Converted, sources: LlamaCppSources, samples: list[Sample], tmp_path: Path
) -> None:
    tools = cached_tools()
    if tools is None:
        pytest.skip("llama.cpp's programs are not built here: make llama-tools")
    text = "\n".join(sample.reference for sample in samples) * 4
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    theirs = tmp_path / "theirs.gguf"
    size = str(CHUNK)
    subprocess.run(
        [
            *(tools.imatrix, "-m", tiny.gguf, "-f", tmp_path / "text.txt", "-o", theirs),
            *("-c", size, "-b", size, "-ub", size, "-t", "1", "-np", "1"),
        ],
        check=True,
        capture_output=True,
    )
    ids = load_tokenizer(tiny.model)(text, add_special_tokens=False)["input_ids"]
    chunks = [ids[begin : begin + CHUNK] for begin in range(0, len(ids) - CHUNK + 1, CHUNK)]
    model = load_model(tiny.model)
    with input_squares(model, FAMILY) as squares, torch.inference_mode():
        for chunk in chunks:
            model(input_ids=torch.tensor([chunk]), use_cache=False)
    ours = write_squares(
        *(squares, tiny.model, FAMILY, tmp_path / "ours.gguf", sources), dataset="", chunks=1
    )
    found, expected = importances(ours, sources), importances(theirs, sources)
    assert len(chunks) > 2
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=2e-3 * values.max(), err_msg=name)


def test_every_token_of_the_conversations_counts_those_of_images_too(
    tiny: Converted, samples: list[Sample], matrix: Path, sources: LlamaCppSources
) -> None:
    encoder = Encoder(load_tokenizer(tiny.model), tiny.contract)
    encoded = [encoder.encode_sample(sample.messages) for sample in samples]
    header = read_header(matrix, sources)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(sources.gguf_package))
        from gguf import GGUFReader

        counts = {
            float(tensor.data.item())
            for tensor in GGUFReader(matrix).tensors
            if tensor.name.endswith(".counts")
        }
    assert counts == {float(sum(len(each.input_ids) for each in encoded))}
    assert sum(sum(each.image_mask) for each in encoded) > 100
    assert header.fields["general.type"] == "imatrix"
    assert header.fields["imatrix.datasets"] == ["8 samples of the task with 8 images"]


def test_a_quantised_file_is_nearer_to_the_model_with_the_matrix_than_without(
    tiny: Converted,
    samples: list[Sample],
    matrix: Path,
    text_file: GgufFile,
    sources: LlamaCppSources,
    tmp_path: Path,
) -> None:
    encoder = Encoder(load_tokenizer(tiny.model), tiny.contract)
    exact = HfEngine(load_model(tiny.model), encoder, "hf")
    expected = [exact.forced(sample.prompt, sample.reference) for sample in samples]
    files = {
        given: quantised(tiny, sources, text_file, "q2_k", tmp_path / str(bool(given)), given)
        for given in (None, matrix)
    }
    without, with_matrix = (
        divergence_of(file.path, tiny, samples, expected) for file in files.values()
    )
    assert with_matrix < without
    fields = files[matrix].header.fields
    assert fields["quantize.imatrix.entries_count"] == 28
    assert fields["quantize.imatrix.dataset"] == "8 samples of the task with 8 images"
    assert "quantize.imatrix.file" not in files[None].header.fields


def test_llama_cpps_own_program_makes_the_same_weights_of_the_matrix(
    tiny: Converted,
    matrix: Path,
    text_file: GgufFile,
    sources: LlamaCppSources,
    tmp_path: Path,
) -> None:
    tools = cached_tools()
    if tools is None:
        pytest.skip("llama.cpp's programs are not built here: make llama-tools")
    theirs = tmp_path / "theirs.gguf"
    subprocess.run(
        [tools.quantize, "--imatrix", matrix, text_file.path, theirs, "Q2_K", "1"],
        check=True,
        capture_output=True,
    )
    ours = quantised(tiny, sources, text_file, "q2_k", tmp_path / "ours", matrix).path
    assert weights_of(ours, sources) == weights_of(theirs, sources)


def weights_of(path: Path, sources: LlamaCppSources) -> dict[str, bytes]:
    """Tensor name to its bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(sources.gguf_package))
        from gguf import GGUFReader

        return {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(path).tensors}


def divergence_of(
    path: Path, tiny: Converted, samples: list[Sample], expected: list[Forced]
) -> float:
    """Mean KL divergence from the merged model over all tokens of all answers, images seen."""
    engine = LlamaCppEngine(path, tiny.mmproj, tiny.contract, name=path.stem)
    try:
        found = [engine.forced(sample.prompt, sample.reference) for sample in samples]
    finally:
        engine.close()
    pairs = zip(expected, found, strict=True)
    return float(
        np.concatenate([token_divergences(ours, other)[0] for ours, other in pairs]).mean()
    )


@pytest.mark.parametrize("quant", sorted(NEEDS_IMATRIX))
def test_a_type_that_needs_a_matrix_is_written_with_one_and_not_without(
    quant: str,
    tiny: Converted,
    matrix: Path,
    text_file: GgufFile,
    sources: LlamaCppSources,
    tmp_path: Path,
) -> None:
    with pytest.raises(ToolError, match=f"to {quant}: .* ended with exit code 1") as caught:
        quantised(tiny, sources, text_file, quant, tmp_path, None)
    assert any("requires an imatrix" in line for line in caught.value.problems)
    made = quantised(tiny, sources, text_file, quant, tmp_path, matrix)
    assert made.path.stat().st_size < text_file.path.stat().st_size / 2


def test_the_model_is_held_against_the_contract_once_and_given_back(
    tiny: Converted,
    samples: list[Sample],
    sources: LlamaCppSources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    models: list[weakref.ref[Any]] = []

    def check(encoder: Encoder, config: Any, where: str) -> None:
        seen.append(where)
        check_model(encoder, config, where)

    def load(folder: Path, **options: Any) -> Any:
        model = load_model(folder, **options)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(hf, "check_model", check)
    monkeypatch.setattr(imatrix, "load_model", load)
    monkeypatch.setattr(imatrix, "write_squares", lambda *_, **__: models[0]())
    path = tmp_path / "imatrix.gguf"
    assert write_imatrix(tiny.model, tiny.contract, samples[:3], path, sources) is None
    assert seen == ["hf:imatrix"]


def test_without_samples_the_way_out_is_named(
    tiny: Converted, sources: LlamaCppSources, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="no sample") as caught:
        write_imatrix(tiny.model, tiny.contract, [], tmp_path / "x.gguf", sources)
    assert any("convert.imatrix=false" in remedy for remedy in caught.value.remedies)


def test_an_overflow_is_named_by_its_layer(
    tiny: Converted, sources: LlamaCppSources, tmp_path: Path
) -> None:
    model = load_model(tiny.model)
    with input_squares(model, FAMILY) as squares, torch.inference_mode():
        model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)
    name = "model.language_model.layers.1.mlp.down_proj.weight"
    squares[name].sums[0] = float("inf")
    with pytest.raises(StageError, match=r"layers\.1\.mlp\.down_proj\.weight are not finite"):
        write_squares(
            *(squares, tiny.model, FAMILY, tmp_path / "x.gguf", sources), dataset="", chunks=1
        )
    assert not list(tmp_path.iterdir())


def test_samples_are_taken_from_the_whole_of_an_ordered_list(samples: list[Sample]) -> None:
    assert spread(samples, 4) == [samples[0], samples[2], samples[4], samples[6]]
    assert spread(samples, 100) == samples
