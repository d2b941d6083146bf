"""Our encoder held against transformers' own processors and qwen-vl-utils."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_folders import VISION_MODELS, contract_of, model_folder, picture
from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.images import smart_resize
from vlmpipe.models.families import family_of
from vlmpipe.models.loading import load_tokenizer

ORACLE = Path(sys.prefix) / "oracle"
MAX_PIXELS = 448 * 448
SIZES = [(150, 110), (225, 57), (701, 523)]


@pytest.mark.slow
@pytest.mark.parametrize("name", VISION_MODELS)
def test_ids_and_pixels_are_those_of_the_official_processor(name: str, tmp_path: Path) -> None:
    if not ORACLE.is_dir():
        pytest.skip(f"no torchvision in {ORACLE.name}/ of the environment: run `make setup`")
    folder = model_folder(name)
    family = family_of(folder)
    encoder = Encoder(
        load_tokenizer(folder), contract_of(family, max_pixels=MAX_PIXELS, max_size=None)
    )
    for place, (width, height) in enumerate(SIZES):
        picture(width, height, seed=place).save(tmp_path / "image.png")
        official = _official(folder, tmp_path)
        ours = encoder.encode_prompt(
            [
                Message(
                    "user",
                    (
                        Image.open(tmp_path / "image.png"),
                        "Convert the table in the image to HTML. 표를 읽어 주세요.",
                    ),
                )
            ]
        )
        assert ours.input_ids == official["input_ids"][0].tolist()
        assert ours.image_mask == official["mm_token_type_ids"][0].tolist()
        assert np.array_equal(ours.image_grid_thw, official["image_grid_thw"])
        assert np.array_equal(ours.pixel_values, official["pixel_values"])
    for size, expected in zip(official["sizes"], official["resized"], strict=True):
        factor = family.grid_factor
        found = smart_resize(*size.tolist(), factor, 8 * factor**2, MAX_PIXELS)
        assert list(found) == expected.tolist()


def _official(folder: Path, tmp_path: Path) -> dict[str, np.ndarray]:
    out = tmp_path / "official.npz"
    script = Path(__file__).with_name("official_processor.py")
    words = [folder, tmp_path / "image.png", MAX_PIXELS, out]
    path = os.pathsep.join([str(ORACLE), os.environ.get("PYTHONPATH", "")])
    child = subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return dict(np.load(out))
