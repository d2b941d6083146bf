"""transformers in process: the model as it was trained, adapter on or off."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.encoder import IGNORED, Encoded, Encoder
from vlmpipe.encoding.rendered import prompt_ids
from vlmpipe.engines.base import Completion, EngineType, Forced, Score
from vlmpipe.engines.contract_check import check_model


class HfEngine:
    """Greedy answers and teacher-forced losses of a transformers or PEFT model."""

    engine_type: EngineType = "hf"
    can_score = True

    def __init__(self, model: Any, encoder: Encoder, name: str, *, adapter: bool = True) -> None:
        """Hold model and encoder against the contract.

        Raises:
            ArtifactError: when image-token counts, token ids or shapes differ from it.
        """
        check_model(encoder, model.config, name)
        self._model = model
        self._encoder = encoder
        self._name = name
        self._adapter = adapter

    @property
    def name(self) -> str:
        """As it stands in results."""
        return self._name

    @property
    def version(self) -> str:
        """Of transformers, which holds the model's code."""
        return f"transformers {version('transformers')}"

    def complete(self, messages: Sequence[Message], *, max_new_tokens: int) -> Completion:
        """Greedy answer; transformers' generate with the key-value cache."""
        encoded = self._encoder.encode_prompt(messages)
        inputs = self.model_inputs(encoded)
        clock = _FirstTokenClock()
        with self._inference():
            output = self._model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                repetition_penalty=1.0,
                eos_token_id=self._encoder.stop_token_ids,
                pad_token_id=self._encoder.tokenizer.pad_token_id,
                streamer=clock,
            )
        seconds = time.perf_counter() - clock.begun
        new = output[0, len(encoded.input_ids) :].tolist()
        stopped = bool(new) and new[-1] in self._encoder.stop_token_ids
        return Completion(
            text=self._encoder.decode(new),
            finish_reason="stop" if stopped else "length",
            prompt_tokens=len(encoded.input_ids),
            completion_tokens=len(new),
            seconds=seconds,
            first_token_seconds=clock.first_token_seconds(seconds),
        )

    def score(self, messages: Sequence[Message], answer: str) -> Score:
        """Mean negative log-likelihood of the answer, end of turn included, in nats a token."""
        return self.forced(messages, answer).score()

    def forced(self, messages: Sequence[Message], answer: str) -> Forced:
        """Logits over the whole vocabulary at each token of the answer and its end of turn."""
        turns = [*messages, Message("assistant", (answer,))]
        encoded = self._encoder.encode_sample(turns, scope="assistant")
        start = _last_answer_start(encoded.labels)
        targets = np.array([label for label in encoded.labels[start:] if label != IGNORED])
        with self._inference():
            # Rows of the prompt would be computed to be thrown away: 152,000 values a token.
            kept = len(encoded.labels) - start + 1
            inputs = self.model_inputs(encoded)
            logits = self._model(**inputs, use_cache=False, logits_to_keep=kept).logits[0]
        return Forced(targets, logits[: len(targets)].float().cpu().numpy())

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a prompt; -1 for each token of an image."""
        return prompt_ids(self._encoder, messages)

    def image_features(self, image: Image.Image) -> np.ndarray:
        """What the tower makes of an image: [tokens, values], all levels that the model is fed."""
        import torch

        encoded = self._encoder.encode_prompt([Message("user", (image,))])
        inputs = self.model_inputs(encoded)
        with self._inference():
            output = self._model.get_image_features(
                inputs["pixel_values"].to(self._model.dtype), inputs["image_grid_thw"]
            )
        # A level is one tensor, or one for each image.
        levels = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        rows = [torch.cat(tuple(level)) if isinstance(level, tuple) else level for level in levels]
        return np.concatenate([row.float().cpu().numpy() for row in rows], axis=-1)

    def handed_over(self, image: Image.Image) -> Image.Image:
        """The image as the processor is given it."""
        return self._encoder.contract.grid.prepare(image)

    def model_inputs(self, encoded: Encoded) -> dict[str, Any]:
        """Tensors of one conversation, batch of one, on the model's device."""
        import torch

        ids = torch.tensor([encoded.input_ids])
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if encoded.pixel_values is not None and encoded.image_grid_thw is not None:
            # Without the type ids Qwen2.5-VL silently goes on with wrong positions.
            inputs["mm_token_type_ids"] = torch.tensor([encoded.image_mask])
            inputs["pixel_values"] = torch.from_numpy(encoded.pixel_values)
            inputs["image_grid_thw"] = torch.from_numpy(encoded.image_grid_thw)
        return {key: value.to(self._model.device) for key, value in inputs.items()}

    def close(self) -> None:
        """Drop the model."""
        self._model = None

    @contextmanager
    def _inference(self) -> Iterator[None]:
        import torch

        switched_off = nullcontext() if self._adapter else self._model.disable_adapter()
        with torch.inference_mode(), switched_off:
            yield


class _FirstTokenClock:
    """A streamer that notes when the first new token came."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self._first: float | None = None
        self._prompt_seen = False

    def put(self, value: Any) -> None:
        """Called with the prompt, then with each token."""
        if self._prompt_seen and self._first is None:
            self._first = time.perf_counter() - self.begun
        self._prompt_seen = True

    def end(self) -> None:
        """Called once at the end."""

    def first_token_seconds(self, otherwise: float) -> float:
        """Seconds until the first token, `otherwise` where none came."""
        return self._first if self._first is not None else otherwise


def _last_answer_start(labels: Sequence[int]) -> int:
    """Index of the first token of the last supervised stretch."""
    position = max(i for i, label in enumerate(labels) if label != -100)
    while position > 0 and labels[position - 1] != -100:
        position -= 1
    return position
