"""Embedded models built once a session, and what tests make of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from PIL import Image, ImageDraw

from vlmpipe.encoding.contract import PreprocessContract, build_contract
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.models.embedded import build_embedded
from vlmpipe.models.families import FAMILIES, Family, family_of
from vlmpipe.models.loading import load_tokenizer

RANDOM_MODELS = tuple(f"random-{name}" for name in FAMILIES)
VISION_MODELS = tuple(f"random-{name}" for name, family in FAMILIES.items() if family.has_vision)


@cache
def model_folder(name: str) -> Path:
    folder = Path(mkdtemp(prefix="vlmpipe-test-")) / name
    build_embedded(name, folder)
    return folder


def contract_of(family: Family, **changes: object) -> PreprocessContract:
    limits: dict[str, object] = {
        "min_pixels": None,
        "max_pixels": 448 * 448,
        "max_size": (448, 448),
        "system_prompt": None,
        "context_length": 1024,
    }
    return build_contract(family, **{**limits, **changes})  # type: ignore[arg-type]


@cache
def encoder_of(name: str) -> Encoder:
    folder = model_folder(name)
    return Encoder(load_tokenizer(folder), contract_of(family_of(folder)))


def picture(width: int = 150, height: int = 110, seed: int = 0) -> Image.Image:
    """Something with edges, different for each seed."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for place in range(6):
        left = (seed * 37 + place * 23) % max(width - 20, 1)
        draw.rectangle((left, place * 9, left + 18, place * 9 + 12), fill=(place * 40, 90, 140))
    draw.text((5, height // 2), f"{seed:05d}", fill="black")
    return image


def table_sample(seed: int = 0, *, vision: bool = True, id: str | None = None) -> Sample:
    parts = (picture(seed=seed),) if vision else ()
    return Sample(
        id=id or f"s{seed}",
        messages=(
            Message("user", (*parts, "Convert the table in the image to HTML.")),
            Message("assistant", (f"<table><tr><td>{seed:03d}</td></tr></table>",)),
        ),
        task="table",
        origin=f"test:{seed}",
    )
