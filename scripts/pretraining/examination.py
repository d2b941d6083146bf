"""What the model reads on pages that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rapidfuzz.distance import Levenshtein

from pretraining.batches import INSTRUCTIONS, Level, draw_pages, patches, prompt_ids
from pretraining.pages import CELL, LINE, Page
from vlmpipe.encoding.chat import END_OF_TURN

LEVELS = {
    "one line": Level(((4, 2), (6, 2), (8, 2)), 30, 300),
    "small pages": Level(((6, 4), (8, 3), (6, 3)), 60, 400),
    "larger pages": Level(((8, 6), (10, 5), (10, 8)), 150, 500),
}
BATCHES = 12


@dataclass(frozen=True)
class Marks:
    """How much of the pages was read."""

    pages: int
    character_error_rate: float
    """Edit distance over the reference's length, over all pages together."""

    cells: float
    """Share of cells that are exactly right."""


def examine(model: Any, tokenizer: Any, level: Level, seed: str) -> Marks:
    """Read unseen pages greedily, each as one batch of equal pages."""
    errors = length = right = cells = count = 0
    for number in range(BATCHES):
        size, pages = draw_pages(level, f"examination:{seed}:{number}")
        for page, answer in zip(pages, _read(model, tokenizer, size, pages), strict=True):
            errors += Levenshtein.distance(answer, page.text)
            length += len(page.text)
            hits, asked = _cells(answer, page.text)
            right, cells, count = right + hits, cells + asked, count + 1
    return Marks(count, errors / length, right / cells)


def _cells(answer: str, reference: str) -> tuple[int, int]:
    """Cells of the reference that stand in the same line and column of the answer, and all."""
    given = [line.split(CELL) for line in answer.split(LINE)]
    right = asked = 0
    for row, line in enumerate(reference.split(LINE)):
        for column, cell in enumerate(line.split(CELL)):
            asked += 1
            right += row < len(given) and given[row][column : column + 1] == [cell]
    return right, asked


@torch.inference_mode()
def _read(model: Any, tokenizer: Any, size: tuple[int, int], pages: list[Page]) -> list[str]:
    import numpy as np

    columns, rows = size
    prompt = prompt_ids(tokenizer, INSTRUCTIONS[0], columns * rows)
    device = model.device
    ids = torch.tensor([prompt] * len(pages), device=device)
    pixels = np.concatenate([patches(np.asarray(page.image)) for page in pages])
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    answers = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        pixel_values=torch.from_numpy(pixels).to(device),
        image_grid_thw=torch.tensor([[1, 2 * rows, 2 * columns]] * len(pages), device=device),
        max_new_tokens=max(16, 2 * max(len(page.text) for page in pages)),
        do_sample=False,
        eos_token_id=end,
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )[:, len(prompt) :]
    return list(tokenizer.batch_decode(answers, skip_special_tokens=True))
