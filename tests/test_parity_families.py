"""What lies between message and answer agrees in both engines, for every family that sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import export_models as models
from vlmpipe.config import parse_config
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.export.gguf.files import Converter, GgufNames
from vlmpipe.export.parity.diagnosis import MAX_FEATURE_ERROR
from vlmpipe.export.parity.references import Trained, whole_model
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.families import FAMILIES
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.system.llama_cpp import llama_cpp_sources

SEEING = [name for name in models.FAMILY_NAMES if FAMILIES[name].has_vision]


@pytest.mark.slow
@pytest.mark.parametrize("family", SEEING)
def test_ids_images_and_features_agree(family: str, tmp_path: Path) -> None:
    model, contract = models.merged_folder(family, tmp_path), models.contract_of(family)
    (tmp_path / "gguf").mkdir()
    sources = llama_cpp_sources(None, SilentReporter())
    names = GgufNames(tmp_path / "gguf", "m")
    converter = Converter(sources, model, FAMILIES[family], names, tmp_path / "log")
    text, tower = converter.convert("f16"), converter.convert("f16", mmproj=True)
    config = parse_config({"model": {"id": f"embedded:random-{family}"}})
    sample, image = models.sample_of(family), models.picture()
    other = LlamaCppEngine(text.path, tower.path, contract, name="f16")
    try:
        base = BaseModelFolder(model, FAMILIES[family], "base", "r", "d", parameters=1)
        with whole_model(Trained(config, base, tmp_path, contract), model) as reference:
            assert other.prompt_ids(sample.prompt) == reference.prompt_ids(sample.prompt)
            assert other.handed_over(image).tobytes() == reference.handed_over(image).tobytes()
            ours, theirs = reference.image_features(image), other.image_features(image)
    finally:
        other.close()
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) < MAX_FEATURE_ERROR * np.linalg.norm(ours) / 2
