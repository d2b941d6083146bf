"""Conversations to token ids, labels and pixels, without torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmpipe.config.train import LossScope, ResizeKernel
from vlmpipe.encoding.chat import IMAGE_PAD, IMAGE_SLOT, Segment, render, render_segments
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.images import ImageGrid, upright_size

if TYPE_CHECKING:
    from PIL import Image

IGNORED = -100
"""Label of a token that carries no loss, as PyTorch's cross entropy has it."""

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


@dataclass(frozen=True)
class Encoded:
    """One conversation as a model takes it; T tokens, P patches, N images."""

    input_ids: list[int]
    """[T]"""

    labels: list[int]
    """[T]; the token's id where it is supervised, else -100."""

    image_mask: list[int]
    """[T]; 1 on image tokens: transformers' `mm_token_type_ids`."""

    pixel_values: np.ndarray | None = None
    """[P, channels x temporal_patch x patch x patch], float32, normalised."""

    image_grid_thw: np.ndarray | None = None
    """[N, 3]: temporal, vertical and horizontal patches of each image."""


class Encoder:
    """Tokenizer, image processor and chat template under one contract."""

    def __init__(self, tokenizer: Any, contract: PreprocessContract) -> None:
        self.tokenizer = tokenizer
        self.contract = contract

    def encode_prompt(self, messages: Sequence[Message], grid: ImageGrid | None = None) -> Encoded:
        """A conversation that the assistant is to answer; nothing in it is supervised."""
        turns = self.contract.conversation(messages)
        text = render(self.contract.chat_template, turns, add_generation_prompt=True)
        return self._encode([Segment(text, answer=False)], turns, grid, scope=None)

    def encode_sample(
        self,
        messages: Sequence[Message],
        scope: LossScope = "assistant_after_image",
        grid: ImageGrid | None = None,
        kernels: Sequence[ResizeKernel] = (),
        *,
        pixels: bool = True,
    ) -> Encoded:
        """A whole conversation with labels for its answers.

        `kernels` resize its images, in order; PIL bicubic where none are given. Without `pixels`
        no image is decoded: ids, labels and `image_grid_thw` come from the images' sizes.
        """
        turns = self.contract.conversation(messages)
        segments = render_segments(self.contract.chat_template, turns)
        return self._encode(segments, turns, grid, scope, kernels, pixels=pixels)

    def token_count(self, messages: Sequence[Message], grid: ImageGrid | None = None) -> int:
        """Tokens of a whole conversation, image tokens included, without touching any pixel."""
        images = [image for message in messages for image in message.images]
        used = grid or self.contract.grid
        texts = self.text_counts(messages)[0]
        return texts + sum(used.tokens(*upright_size(image)) for image in images)

    def text_counts(self, messages: Sequence[Message]) -> tuple[int, int]:
        """Tokens of a whole conversation, and of its last answer, without those of its images."""
        turns = self.contract.conversation(messages)
        segments = render_segments(self.contract.chat_template, turns)
        counts = [len(self._ids(each.text)) - each.text.count(IMAGE_SLOT) for each in segments]
        answers = [count for count, each in zip(counts, segments, strict=True) if each.answer]
        return sum(counts), answers[-1] if answers else 0

    def image_grid(self, prepared: Sequence[Image.Image]) -> np.ndarray:
        """[N, 3]: patches of images that are on their grid, as the image processor cuts them."""
        return np.asarray(self._pixels(prepared)[1])

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids, spaces as they were."""
        return str(
            self.tokenizer.decode(
                list(ids),
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        )

    @cached_property
    def image_token_id(self) -> int:
        """Id of `<|image_pad|>`."""
        return int(self.tokenizer.convert_tokens_to_ids(IMAGE_PAD))

    @cached_property
    def vision_token_ids(self) -> frozenset[int]:
        """Ids that stand for an image or enclose one: never supervised."""
        ids = (self.tokenizer.convert_tokens_to_ids(token) for token in VISION_TOKENS)
        return frozenset(int(each) for each in ids if each is not None)

    @cached_property
    def stop_token_ids(self) -> list[int]:
        """Ids that end an answer."""
        ids = (self.tokenizer.convert_tokens_to_ids(token) for token in self.contract.stop_tokens)
        return [int(each) for each in ids]

    @cached_property
    def _image_processor(self) -> Any:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        return Qwen2VLImageProcessorPil(
            do_resize=False,
            patch_size=self.contract.patch_size,
            merge_size=self.contract.merge_size,
            temporal_patch_size=self.contract.temporal_patch_size,
            image_mean=list(self.contract.image_mean),
            image_std=list(self.contract.image_std),
        )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode(
        self,
        segments: Sequence[Segment],
        turns: Sequence[Message],
        grid: ImageGrid | None,
        scope: LossScope | None,
        kernels: Sequence[ResizeKernel] = (),
        *,
        pixels: bool = True,
    ) -> Encoded:
        images = [image for message in turns for image in message.images]
        used = grid or self.contract.grid
        sizes = [upright_size(image) for image in images]
        ids, is_answer = self._tokenize(segments, [used.tokens(*size) for size in sizes])
        values, grids = None, self._patches(sizes, used)
        if pixels:
            chosen = kernels or ["bicubic"] * len(images)
            prepared = [used.prepare(*pair) for pair in zip(images, chosen, strict=True)]
            values, grids = self._pixels(prepared)
        return Encoded(
            input_ids=ids,
            labels=self._labels(ids, is_answer, scope),
            image_mask=[int(token == self.image_token_id) for token in ids],
            pixel_values=values,
            image_grid_thw=grids,
        )

    def _tokenize(
        self, segments: Sequence[Segment], image_tokens: Sequence[int]
    ) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        is_answer: list[bool] = []
        remaining = iter(image_tokens)
        for segment in segments:
            places = segment.text.count(IMAGE_SLOT)
            text = segment.text
            for _ in range(places):
                slot = IMAGE_SLOT.replace(IMAGE_PAD, "\ue002" * next(remaining))
                text = text.replace(IMAGE_SLOT, slot, 1)
            new = self._ids(text.replace("\ue002", IMAGE_PAD))
            ids += new
            is_answer += [segment.answer] * len(new)
        return ids, is_answer

    def _labels(
        self, ids: Sequence[int], is_answer: Sequence[bool], scope: LossScope | None
    ) -> list[int]:
        """Labels by scope; see `train.loss.scope`."""
        if scope is None:
            return [IGNORED] * len(ids)
        first_image = next((i for i, token in enumerate(ids) if token == self.image_token_id), None)
        if first_image is None:
            first_image, scope = -1, scope if scope == "all_text" else "assistant"
        return [
            token if self._supervised(token, position, answer, first_image, scope) else IGNORED
            for position, (token, answer) in enumerate(zip(ids, is_answer, strict=True))
        ]

    def _supervised(
        self, token: int, position: int, answer: bool, first_image: int, scope: LossScope
    ) -> bool:
        if token in self.vision_token_ids:
            return False
        if scope in ("assistant", "all_text"):
            return answer or scope == "all_text"
        after_image = position > first_image
        return after_image and (answer or scope == "after_image")

    def _patches(self, sizes: Sequence[tuple[int, int]], grid: ImageGrid) -> np.ndarray | None:
        return np.array([grid.patches(*size) for size in sizes]) if sizes else None

    def _pixels(
        self, prepared: Sequence[Image.Image]
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        if not prepared:
            return None, None
        features = self._image_processor(images=list(prepared), return_tensors="np")
        return features["pixel_values"], features["image_grid_thw"]
