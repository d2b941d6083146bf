"""Pages to tensors. Batch number `n` is the same whenever it is asked for: training can resume."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pretraining.pages import PATCH, Glyph, Page, full_page, random_page, sketch_page
from pretraining.sketches import Stroke
from pretraining.texts import alphabet
from vlmpipe.encoding.chat import END_OF_TURN, IMAGE_PAD, render
from vlmpipe.encoding.conversation import Message
from vlmpipe.models.families import FAMILIES

FAMILY = FAMILIES["qwen2_5_vl"]
IGNORED = -100
ACROSS, DOWN = 4, 2
"""Slots of an image token: 7 pixels wide, so that a slot holds one letter, and 14 high."""

SLOTS = ACROSS * DOWN
INSTRUCTIONS = ("Read the text in the image.", "Read.", "Read the text.", "What is written here?")
SHORTEST = "Read."
"""Asked for most often: tokens of a request teach nothing."""


@dataclass(frozen=True)
class Level:
    """What pages of one stretch of training are like."""

    sizes: tuple[tuple[int, int], ...]
    """Columns and rows in image tokens; one is drawn by lot for a batch."""

    most: int
    """Characters on a page, about."""

    image_tokens: int
    """Image tokens in a batch, about."""

    full: float = 0.0
    """Share of pages that are filled from edge to edge."""

    sketches: float = 0.0
    """Share of pages that are line drawings; only beside `full`."""


@dataclass(frozen=True)
class Batch:
    """B pages of one size; N image tokens each, T tokens each."""

    pixels: torch.Tensor
    """[B × 4N, 1176]"""

    grid_thw: torch.Tensor
    """[B, 3]"""

    slots: torch.Tensor
    """[B × N, SLOTS]: class of the character in each slot, 0 for none."""

    strokes: torch.Tensor
    """[B × N, SLOTS]: class of the stroke in each slot, 0 for none; -100 on pages without a
    drawing, whose rules are not labelled."""

    input_ids: torch.Tensor | None = None
    """[B, T]"""

    labels: torch.Tensor | None = None
    """[B, T], as transformers takes them: the token at t is predicted from those before it."""

    where: torch.Tensor | None = None
    """[B, T]: image token (row-major) on which the token at t begins, or -100."""

    pages: tuple[Page, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        there = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **there)


def draw_pages(level: Level, seed: str) -> tuple[tuple[int, int], list[Page]]:
    """Pages of one size for one batch, and that size in image tokens."""
    rng = random.Random(seed)
    columns, rows = rng.choice(level.sizes)
    count = max(8, level.image_tokens // (columns * rows))
    most = max(6, min(level.most, columns * rows * 3))
    if level.full:
        return (columns, rows), [_naming_page(rng, level, columns, rows) for _ in range(count)]
    # Twice as many as are used: pages of about the same length need little padding.
    drawn = [random_page(rng, columns, rows, most) for _ in range(2 * count)]
    drawn.sort(key=lambda page: len(page.text))
    start = rng.randint(0, count)
    return (columns, rows), drawn[start : start + count]


def _naming_page(rng: random.Random, level: Level, columns: int, rows: int) -> Page:
    kind = rng.random()
    if kind < level.full:
        return full_page(rng, columns, rows)
    if kind < level.full + level.sketches:
        return sketch_page(rng, columns, rows)
    return random_page(rng, columns, rows, columns * rows * 3)


def tower_batch(level: Level, seed: str) -> Batch:
    """What the tower's first lesson needs: pixels and the characters under each image token."""
    size, pages = draw_pages(level, seed)
    pixels = np.concatenate([patches(np.asarray(page.image)) for page in pages])
    grid = [[1, 2 * size[1], 2 * size[0]]] * len(pages)
    slots = np.concatenate([slot_labels([*page.glyphs, *page.marks], size) for page in pages])
    strokes = np.concatenate([stroke_labels(page.strokes, size) for page in pages])
    return Batch(
        torch.from_numpy(pixels),
        torch.tensor(grid),
        torch.from_numpy(slots),
        torch.from_numpy(strokes),
        pages=tuple(pages),
    )


def reading_batch(level: Level, seed: str, tokenizer: Any) -> Batch:
    """The same, with a request and the page's text as the answer."""
    batch = tower_batch(level, seed)
    rng = random.Random(f"{seed}:requests")
    tokens = batch.slots.shape[0] // len(batch.pages)
    columns = int(batch.grid_thw[0, 2]) // 2
    rows = [_row(page, rng, tokenizer, tokens, columns) for page in batch.pages]
    # The longest are cut short rather than all others padded.
    length = sorted(len(ids) for ids, _, _ in rows)[len(rows) * 9 // 10]
    pad = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    return replace(
        batch,
        input_ids=_padded([ids for ids, _, _ in rows], length, pad),
        labels=_padded([labels for _, labels, _ in rows], length, IGNORED),
        where=_padded([where for _, _, where in rows], length, IGNORED),
    )


def patches(image: np.ndarray) -> np.ndarray:
    """[height, width, 3] to [4N, 1176], in the order of Qwen2-VL's image processor."""
    mean = np.array(FAMILY.image_mean, np.float32) * 255
    deviation = np.array(FAMILY.image_std, np.float32) * 255
    scaled = (image.astype(np.float32) - mean) / deviation
    rows, columns = image.shape[0] // PATCH, image.shape[1] // PATCH
    cut = scaled.reshape(rows, 2, 14, columns, 2, 14, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    # A still image is two equal frames.
    twice = np.repeat(cut[:, :, :, :, :, None], 2, axis=5)
    return np.ascontiguousarray(twice.reshape(rows * columns * 4, 1176))


def slot_labels(glyphs: Sequence[Glyph | None], size: tuple[int, int]) -> np.ndarray:
    """[N, SLOTS]; where two characters share a slot, the first is named."""
    columns, rows = size
    labels = np.zeros((rows * columns, SLOTS), np.int64)
    for glyph in glyphs:
        if glyph is None:
            continue
        token, slot = _place((glyph.x, glyph.y), columns, rows)
        labels[token, slot] = labels[token, slot] or _CLASS[glyph.character]
    return labels


def stroke_labels(strokes: Sequence[Stroke], size: tuple[int, int]) -> np.ndarray:
    """[N, SLOTS]; where strokes meet in a slot, one of them is named, an arrow's head first."""
    columns, rows = size
    labels = np.zeros((rows * columns, SLOTS), np.int64)
    if not strokes:
        return labels + IGNORED
    for stroke in sorted(strokes, key=lambda each: not each.arrow):
        for point, kind in stroke.samples():
            token, slot = _place(point, columns, rows)
            labels[token, slot] = labels[token, slot] or kind
    return labels


_CLASS = {character: number for number, character in enumerate(alphabet(), start=1)}
CLASSES = len(_CLASS) + 1


def _place(point: tuple[float, float], columns: int, rows: int) -> tuple[int, int]:
    """Image token (row-major) and slot in it."""
    x = min(max(point[0], 0), columns * PATCH - 1)
    y = min(max(point[1], 0), rows * PATCH - 1)
    across, down = int(x % PATCH / PATCH * ACROSS), int(y % PATCH / PATCH * DOWN)
    return int(y // PATCH) * columns + int(x // PATCH), down * ACROSS + across


def _row(
    page: Page, rng: random.Random, tokenizer: Any, image_tokens: int, columns: int
) -> tuple[list[int], list[int], list[int]]:
    """Token ids, labels and places of one page."""
    request = SHORTEST if rng.random() < 0.6 else rng.choice(INSTRUCTIONS)
    prompt = prompt_ids(tokenizer, request, image_tokens)
    answer, where = _answer(tokenizer, page, columns)
    return (
        prompt + answer,
        [IGNORED] * len(prompt) + answer,
        [IGNORED] * len(prompt) + where,
    )


def prompt_ids(tokenizer: Any, request: str, image_tokens: int) -> list[int]:
    """The request behind an image, up to where the answer begins."""
    from PIL import Image

    message = Message("user", (Image.new("RGB", (PATCH, PATCH)), request))
    text = render(FAMILY.chat_template, [message], add_generation_prompt=True)
    before, after = text.split(IMAGE_PAD)
    pad = tokenizer.convert_tokens_to_ids(IMAGE_PAD)
    return [
        *tokenizer(before, add_special_tokens=False)["input_ids"],
        *([pad] * image_tokens),
        *tokenizer(after, add_special_tokens=False)["input_ids"],
    ]


def _answer(tokenizer: Any, page: Page, columns: int) -> tuple[list[int], list[int]]:
    encoded = tokenizer(page.text, add_special_tokens=False, return_offsets_mapping=True)
    where = []
    for start, end in encoded["offset_mapping"]:
        seen = [glyph for glyph in page.glyphs[start : max(end, start + 1)] if glyph]
        place = (seen[0].x, seen[0].y) if seen else None
        where.append(_place(place, columns, 10_000)[0] if place else IGNORED)
    end_of_turn = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    return [*encoded["input_ids"], end_of_turn], [*where, IGNORED]


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row[:length], *([value] * (length - len(row)))] for row in rows])
