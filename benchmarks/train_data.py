"""Pages of words to be transcribed: the same samples for both sides of the training benchmark.

An answer's length is drawn evenly on a logarithmic scale between two limits, in tokens, the end of
turn included; the page shows the answer's words. Page sides are multiples of 28 pixels, so that
neither side resizes and both have the same pixels.
"""

from __future__ import annotations

import json
import math
import random
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from vlmpipe.drawing.fonts import FOLDER as FONTS
from vlmpipe.encoding.chat import END_OF_TURN, render
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.models.families import FAMILIES

FAMILY = FAMILIES["qwen2_5_vl"]
SEED = 20261102
QUESTION = "Write down all the text on the page."
BOX = (1792, 1792)
"""Limit on pages that vlmpipe is given: larger than any."""

MARGIN = 12
LINE_CHARACTERS = 46
PARQUET = "train.parquet"
ROWS_PER_GROUP = 16


@dataclass(frozen=True)
class Workload:
    """What samples are drawn from."""

    pages: tuple[tuple[int, int], ...]
    """Height and width; they take turns."""

    answer_tokens: tuple[int, int]


WORKLOADS = {
    "mixed": Workload(((280, 392), (420, 588), (588, 784)), (50, 600)),
    "2k": Workload(((980, 1176), (1120, 1120), (1120, 1260)), (200, 600)),
    "tiny": Workload(((112, 168), (168, 168), (168, 224)), (20, 60)),
}
"""`mixed`: images of 140, 315 and 588 tokens; `2k`: of 1,470, 1,600 and 1,800, samples of about
2,000 tokens in all."""


@dataclass(frozen=True)
class Page:
    """One sample: a page's size in pixels, and the words on it."""

    height: int
    width: int
    answer: str


def draw_pages(count: int, tokenizer: Any, workload: Workload) -> list[Page]:
    """The samples; the same for the same arguments."""
    lot = random.Random(SEED)
    words = files("vlmpipe.tasks").joinpath("data/words.txt").read_text(encoding="utf-8").split()
    return [
        Page(
            *workload.pages[number % len(workload.pages)],
            _answer(_drawn(lot, workload.answer_tokens), words, lot, tokenizer),
        )
        for number in range(count)
    ]


def picture(page: Page) -> Image.Image:
    """The page in black on white, its type as large as fits."""
    lines = textwrap.wrap(page.answer, LINE_CHARACTERS)
    image = Image.new("RGB", (page.width, page.height), "white")
    step = max(4, min((page.height - 2 * MARGIN) // max(len(lines), 1), 24))
    font = ImageFont.truetype(str(FONTS / "sans.ttf"), max(4, step - 2))
    draw = ImageDraw.Draw(image)
    for place, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + place * step), line, fill="black", font=font)
    return image


def samples(pages: Sequence[Page]) -> list[Sample]:
    """For vlmpipe."""
    return [
        Sample(
            id=f"page{number}",
            messages=(
                Message("user", (picture(page), QUESTION)),
                Message("assistant", (page.answer,)),
            ),
            task="reading",
            origin=f"pages:{number}",
        )
        for number, page in enumerate(pages)
    ]


def write_samples(pages: Sequence[Page], folder: Path) -> None:
    """The split file that vlmpipe's setup writes, and PNG files with their texts for TRL."""
    from datasets import Dataset

    from vlmpipe.data.rows import features, to_row

    folder.mkdir(parents=True, exist_ok=True)
    made = samples(pages)
    rows = Dataset.from_list([to_row(each, 1.0) for each in made], features=features())
    rows.to_parquet(folder / PARQUET, batch_size=ROWS_PER_GROUP)
    listed = []
    for page, sample in zip(pages, made, strict=True):
        sample.images[0].save(folder / f"{sample.id}.png")
        listed.append({"image": f"{sample.id}.png", "answer": page.answer})
    (folder / "pages.json").write_text(json.dumps(listed), encoding="utf-8")


def prompt_completion(folder: Path) -> Any:
    """For TRL: columns prompt, completion and images, the texts rendered by the chat template.

    They are given as text, not as messages: TRL would else supervise the line break that ends a
    turn, which vlmpipe does not, and the two would not learn the same tokens.
    """
    from datasets import Dataset, List
    from datasets import Image as ImageColumn

    pages = json.loads((folder / "pages.json").read_text(encoding="utf-8"))
    return Dataset.from_dict(
        {
            "prompt": [prompt_text()] * len(pages),
            "completion": [page["answer"] + END_OF_TURN for page in pages],
            "images": [[str(folder / page["image"])] for page in pages],
        }
    ).cast_column("images", List(ImageColumn()))


def describe(pages: Sequence[Page], tokenizer: Any) -> dict[str, Any]:
    """What is published of the samples: counts and lengths, tokens a sample."""
    images = [page.height * page.width // FAMILY.grid_factor**2 for page in pages]
    lengths = sample_lengths(pages, tokenizer)
    answers = [supervised for _, supervised in lengths]
    return {
        "samples": len(pages),
        "image sizes": [f"{height}x{width}" for height, width in sorted({_size(p) for p in pages})],
        "image tokens": [min(images), sum(images) / len(images), max(images)],
        "tokens": sum(length for length, _ in lengths),
        "supervised tokens": sum(answers),
        "answer tokens": [min(answers), sum(answers) / len(answers), max(answers)],
    }


def answer_length(answer: str, tokenizer: Any) -> int:
    """Supervised tokens of an answer, the end of turn included."""
    return len(tokenizer(answer + END_OF_TURN, add_special_tokens=False)["input_ids"])


def sample_lengths(pages: Sequence[Page], tokenizer: Any) -> list[tuple[int, int]]:
    """Tokens of each sample as TRL's side makes them, and how many of them are supervised."""
    prompt = len(tokenizer(prompt_text(), add_special_tokens=False)["input_ids"]) - 1
    answers = [answer_length(page.answer, tokenizer) for page in pages]
    images = [page.height * page.width // FAMILY.grid_factor**2 for page in pages]
    return [(prompt + i + a, a) for i, a in zip(images, answers, strict=True)]


def prompt_text() -> str:
    """The question with its image's place, as every sample has it."""
    turns = [Message("user", (Image.new("RGB", (28, 28)), QUESTION))]
    return render(FAMILY.chat_template, turns, add_generation_prompt=True)


def _size(page: Page) -> tuple[int, int]:
    return page.height, page.width


def _drawn(lot: random.Random, limits: tuple[int, int]) -> int:
    low, high = (math.log(limit) for limit in limits)
    return round(math.exp(lot.uniform(low, high)))


def _answer(tokens: int, words: Sequence[str], lot: random.Random, tokenizer: Any) -> str:
    """Words up to a number of tokens, at most; never fewer than one word."""
    chosen = [lot.choice(words) for _ in range(tokens)]
    low, high = 1, len(chosen)
    while low < high:
        middle = (low + high + 1) // 2
        fits = answer_length(" ".join(chosen[:middle]), tokenizer) <= tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    return " ".join(chosen[:low])
