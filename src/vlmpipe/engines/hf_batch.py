"""Several conversations as one batch of a transformers model, and its answers taken apart again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmpipe.encoding.encoder import Encoded


def batch_tensors(batch: Sequence[Encoded], pad_token_id: int) -> dict[str, Any]:
    """Tensors of B conversations: ids and masks [B, T], patches of all images one after another.

    Shorter ones are filled up on the left, so that all answers begin at the same place; M-RoPE
    counts positions past what the attention mask leaves out.
    """
    import torch

    length = max(len(encoded.input_ids) for encoded in batch)
    inputs = {
        "input_ids": _filled([each.input_ids for each in batch], length, pad_token_id),
        "attention_mask": _filled([[1] * len(each.input_ids) for each in batch], length, 0),
    }
    pixels = [each.pixel_values for each in batch if each.pixel_values is not None]
    grids = [each.image_grid_thw for each in batch if each.image_grid_thw is not None]
    if pixels:
        # Without the type ids Qwen2.5-VL silently goes on with wrong positions.
        inputs["mm_token_type_ids"] = _filled([each.image_mask for each in batch], length, 0)
        inputs["pixel_values"] = torch.from_numpy(np.concatenate(pixels))
        inputs["image_grid_thw"] = torch.from_numpy(np.concatenate(grids))
    return inputs


def _filled(rows: Sequence[Sequence[int]], length: int, value: int) -> Any:
    import torch

    return torch.tensor([[value] * (length - len(row)) + list(row) for row in rows])


@dataclass(frozen=True)
class Generated:
    """What one conversation of a batch was given."""

    tokens: list[int]
    """Up to the token that ended it, which is included."""

    stopped: bool
    """Ended by a stop token and not by the limit."""


def taken_apart(rows: Sequence[Sequence[int]], stop_token_ids: Sequence[int]) -> list[Generated]:
    """Each row up to its own end: a batch goes on until its longest answer has ended."""
    return [_ended(list(row), stop_token_ids) for row in rows]


def _ended(row: list[int], stop_token_ids: Sequence[int]) -> Generated:
    end = next((i for i, token in enumerate(row) if token in stop_token_ids), None)
    return Generated(row, False) if end is None else Generated(row[: end + 1], True)


class StepClock:
    """A streamer that notes when each step of a generation was done."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._steps: list[float] = []
        self._prompt_seen = False

    def put(self, value: Any) -> None:
        """Called with the prompt, then with the tokens of each step."""
        if self._prompt_seen:
            self._steps.append(time.perf_counter() - self._begun)
        self._prompt_seen = True

    def end(self) -> None:
        """Called once at the end."""

    def seconds_after(self, tokens: int) -> float:
        """Seconds until that many tokens of a row were known."""
        if not self._steps or tokens < 1:
            return time.perf_counter() - self._begun
        return self._steps[min(tokens, len(self._steps)) - 1]
