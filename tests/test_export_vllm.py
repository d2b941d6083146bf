"""The folder for vLLM: what is quantised, what is not, and what is said without llm-compressor.

Set VLMPIPE_LLMCOMPRESSOR_PYTHON to the Python of an environment that has llm-compressor to run
it for real.
"""

from __future__ import annotations

import importlib.util
import json
import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import export_models as models
from vlmpipe.engines.base import Score
from vlmpipe.engines.hf import HfEngine
from vlmpipe.errors import ArtifactError, StageError, ToolError
from vlmpipe.export.vllm.folder import (
    Scheme,
    check_quantised,
    export_for_vllm,
    group_size,
    open_vllm_export,
)
from vlmpipe.models.families import FAMILIES

PYTHON = os.environ.get("VLMPIPE_LLMCOMPRESSOR_PYTHON")
LOADABLE = importlib.util.find_spec("compressed_tensors") is not None


@pytest.mark.skipif(
    importlib.util.find_spec("llmcompressor") is not None, reason="llm-compressor is here"
)
def test_missing_compressor_is_named_with_the_way_to_install_it(tmp_path: Path) -> None:
    contract = models.contract_of("qwen2_5_vl")
    with pytest.raises(ToolError, match="llm-compressor") as caught:
        export_for_vllm(
            tmp_path, tmp_path / "out", "fp8", contract, [], log=tmp_path / "compress.log"
        )
    assert any("convert.vllm_python" in remedy for remedy in caught.value.remedies)


@pytest.mark.skipif(LOADABLE, reason="compressed-tensors is here")
def test_missing_reader_is_named_with_the_way_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="compressed-tensors"):
        open_vllm_export(tmp_path, models.contract_of("qwen3"))


@pytest.mark.parametrize(("intermediate", "expected"), [(18944, 128), (11072, 64), (11104, 32)])
def test_group_fits_every_width(intermediate: int, expected: int, tmp_path: Path) -> None:
    write_config(tmp_path, intermediate)
    assert group_size(tmp_path) == expected


def test_width_without_a_group_is_refused_with_its_value(tmp_path: Path) -> None:
    write_config(tmp_path, 11000)
    with pytest.raises(StageError, match="intermediate_size 11000"):
        group_size(tmp_path)


LAYERS = [
    f"model.layers.{index}.{name}_proj"
    for index in range(2)
    for name in (*(f"self_attn.{each}" for each in "qkvo"), "mlp.gate", "mlp.up", "mlp.down")
]


def test_language_layers_alone_pass(tmp_path: Path) -> None:
    write_scales(tmp_path, LAYERS)
    assert check_quantised(tmp_path, FAMILIES["qwen2_5_vl"]) == 14


@pytest.mark.parametrize(
    "stranger", ["visual.blocks.0.mlp.up_proj", "visual.merger.mlp.0", "lm_head"]
)
def test_layer_that_must_keep_its_bits_is_found(stranger: str, tmp_path: Path) -> None:
    write_scales(tmp_path, [*LAYERS[1:], stranger])
    with pytest.raises(ArtifactError) as caught:
        check_quantised(tmp_path, FAMILIES["qwen2_5_vl"])
    assert caught.value.problems == (f"not of the language model: {stranger}",)


def test_layer_that_was_left_out_is_counted(tmp_path: Path) -> None:
    write_scales(tmp_path, LAYERS[:-1])
    with pytest.raises(ArtifactError, match=r"13 quantised layers, .* has 14"):
        check_quantised(tmp_path, FAMILIES["qwen2_5_vl"])


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="VLMPIPE_LLMCOMPRESSOR_PYTHON names no environment")
@pytest.mark.parametrize("scheme", ["fp8", "gptq", "awq"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "qwen3"])
def test_real_export_keeps_the_tower_and_answers_nearly_as_before(
    family: str, scheme: Scheme, tmp_path: Path
) -> None:
    merged = models.merged_folder(family, tmp_path)
    contract = models.contract_of(family)
    sample = models.sample_of(family)
    assert PYTHON
    done = export_for_vllm(
        merged,
        tmp_path / scheme,
        scheme,
        contract,
        [sample, sample],
        log=tmp_path / "compress.log",
        python=Path(PYTHON),
    )
    names = {path.name for path in (tmp_path / scheme).iterdir()}
    assert names >= {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"}
    assert done.calibration_samples == (0 if scheme == "fp8" else 2)
    text = json.loads((merged / "config.json").read_text())
    blocks = text.get("text_config", text)["num_hidden_layers"]
    assert done.quantised_layers == 7 * blocks
    if LOADABLE:
        before = scored(merged, family)
        with closing(open_vllm_export(tmp_path / scheme, contract)) as engine:
            after = engine.score(sample.prompt, sample.reference)
        assert 0 < abs(after.loss - before.loss) < 0.5


def scored(merged: Path, family: str) -> Score:
    from vlmpipe.encoding.encoder import Encoder
    from vlmpipe.models.loading import load_model, load_tokenizer

    sample = models.sample_of(family)
    encoder = Encoder(load_tokenizer(merged), models.contract_of(family))
    with closing(HfEngine(load_model(merged), encoder, "hf:merged")) as engine:
        return engine.score(sample.prompt, sample.reference)


def write_config(folder: Path, intermediate: int) -> None:
    text = {
        "hidden_size": 3584,
        "intermediate_size": intermediate,
        "num_attention_heads": 28,
        "num_hidden_layers": 2,
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "text_config": text}))


def write_scales(folder: Path, names: list[str]) -> None:
    from safetensors.numpy import save_file

    write_config(folder, 18944)
    tensors = {f"{name}.weight_scale": np.zeros(1, dtype=np.float32) for name in names}
    save_file({**tensors, "visual.blocks.0.attn.qkv.weight": np.zeros(1)}, folder / "m.safetensors")
