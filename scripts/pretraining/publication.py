"""The weights and their card, as the package ships them."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from pretraining.examination import Marks
from pretraining.lessons import LESSONS, SEED

CARD = """\
# embedded:tiny

A Qwen2.5-VL of {millions:.2f} million parameters that reads printed text and knows no task: a base
model to try the whole pipeline with, on a laptop, with nothing downloaded. bfloat16,
{megabytes:.1f} MB.

## What it can do
Asked to "Read the text in the image.", it writes lines and words in reading order, cells of a
line parted by a tab: digits, Latin letters, common signs, {hangul} Hangul syllables, in print of
about 14 to 34 pixels to the em. On pages from the generator that it has not seen:

| pages | read | character error rate | cells exactly right |
|---|---|---|---|
{marks}

## What it cannot do
It has never seen HTML, Mermaid, SMILES or JSON, nor any picture of a task, and follows no request
but reading; the entries of its vocabulary (such as `</` and `="`) it has read in random strings
only. It knows no language beyond the words of the generators.
Handwriting, small print, rotated text and photographs are read badly or not at all. Its answers
are for trying software, not for work.

## How it was made
`python scripts/pretrain_embedded.py`, seed {seed}, torch {torch}, on {hardware},
from generated pages alone; no data of anybody's. The vision tower has 4 blocks of 192, the language
model 4 layers of 256, tied to a vocabulary of {vocabulary}.

| lesson | steps | what |
|---|---|---|
{lessons}

First the tower alone learns to name the character, or the direction of the stroke, in each 7 x 14
pixels under an image token; the renderer knows where they are. Then the whole model writes the
pages' text, while heads that are dropped at the end keep naming, tell each image token's own place,
and point at the place that is read next.
"""


def publish(model: Any, marks: dict[str, Marks], folder: Path, hangul: int) -> None:
    """Write `tiny.safetensors` (bfloat16) and `tiny.md` into the folder, aside first."""
    from safetensors.torch import save_model

    hardware = _hardware(model.device)
    aside, target = folder / "tiny.part", folder / "tiny.safetensors"
    save_model(model.to(torch.bfloat16), str(aside), metadata={"format": "pt"})
    # The library writes files that only their owner can read.
    aside.chmod(0o644)
    os.replace(aside, target)
    text = CARD.format(
        millions=sum(p.numel() for p in model.parameters()) / 1e6,
        megabytes=target.stat().st_size / 1e6,
        hangul=hangul,
        marks="\n".join(_mark(name, each) for name, each in marks.items()),
        seed=SEED,
        torch=torch.__version__.partition("+")[0],
        hardware=hardware,
        vocabulary=model.config.text_config.vocab_size,
        lessons="\n".join(_lesson(each) for each in LESSONS),
    )
    (folder / "tiny.md").write_text(text, encoding="utf-8")


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} cores of {platform.machine()}, no GPU"


def _mark(name: str, marks: Marks) -> str:
    return f"| {name} | {marks.pages} | {marks.character_error_rate:.1%} | {marks.cells:.1%} |"


def _lesson(lesson: Any) -> str:
    sizes = f"pages of up to {max(c * r for c, r in lesson.level.sizes)} image tokens"
    what = "reading them" if lesson.reads else "naming characters and strokes"
    return f"| {lesson.name} | {lesson.steps} | {what}, {sizes} |"
