"""transformers in process: the model as it was trained, adapter on or off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.encoder import IGNORED, Encoded, Encoder
from vlmpipe.encoding.rendered import prompt_ids
from vlmpipe.engines.answering import failure_of
from vlmpipe.engines.base import Completion, EngineType, Failure, Forced, Score
from vlmpipe.engines.contract_check import check_model
from vlmpipe.engines.hf_batch import Generated, StepClock, batch_tensors, taken_apart
from vlmpipe.errors import StageError, VlmpipeError


class HfEngine:
    """Greedy answers and teacher-forced losses of a transformers or PEFT model."""

    engine_type: EngineType = "hf"
    can_score = True

    def __init__(
        self,
        model: Any,
        encoder: Encoder,
        name: str,
        *,
        adapter: bool = True,
        batch_size: int = 1,
    ) -> None:
        """Hold model and encoder against the contract; `batch_size` is for `complete_all`.

        Raises:
            ArtifactError: when image-token counts, token ids or shapes differ from it.
        """
        check_model(encoder, model.config, name)
        self._model = model
        self._encoder = encoder
        self._name = name
        self._adapter = adapter
        self._batch_size = batch_size

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
        return self._generate([self._encoder.encode_prompt(messages)], max_new_tokens)[0]

    def complete_all(
        self, conversations: Iterable[Sequence[Message]], *, max_new_tokens: int
    ) -> Iterator[Completion | Failure]:
        """The same for many, `batch_size` at a time.

        Times are of the batch up to an answer's own last token. In 16 bit, a batch rounds otherwise
        than its conversations would one by one, and a tie between two tokens may fall otherwise.
        """
        rest = iter(conversations)
        while batch := list(islice(rest, self._batch_size)):
            yield from self._complete_batch(batch, max_new_tokens)

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
        return self._inputs([encoded])

    def close(self) -> None:
        """Drop the model."""
        self._model = None

    def _inputs(self, batch: Sequence[Encoded]) -> dict[str, Any]:
        tensors = batch_tensors(batch, self._encoder.tokenizer.pad_token_id)
        return {key: value.to(self._model.device) for key, value in tensors.items()}

    def _complete_batch(
        self, batch: Sequence[Sequence[Message]], max_new_tokens: int
    ) -> list[Completion | Failure]:
        encoded: list[Encoded | Failure] = [self._encoded(messages) for messages in batch]
        whole = [each for each in encoded if isinstance(each, Encoded)]
        try:
            answered = iter(self._generate(whole, max_new_tokens) if whole else [])
        except VlmpipeError as error:
            return [failure_of(error)] * len(batch)
        return [each if isinstance(each, Failure) else next(answered) for each in encoded]

    def _encoded(self, messages: Sequence[Message]) -> Encoded | Failure:
        try:
            return self._encoder.encode_prompt(messages)
        except VlmpipeError as error:
            return failure_of(error)

    def _generate(self, batch: Sequence[Encoded], max_new_tokens: int) -> list[Completion]:
        inputs = self._inputs(batch)
        clock = StepClock()
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
        rows = output[:, inputs["input_ids"].shape[1] :].tolist()
        answers = taken_apart(rows, self._encoder.stop_token_ids)
        return [
            self._completion(encoded, answer, clock)
            for encoded, answer in zip(batch, answers, strict=True)
        ]

    def _completion(self, encoded: Encoded, answer: Generated, clock: StepClock) -> Completion:
        return Completion(
            text=self._encoder.decode(answer.tokens),
            finish_reason="stop" if answer.stopped else "length",
            prompt_tokens=len(encoded.input_ids),
            completion_tokens=len(answer.tokens),
            seconds=clock.seconds_after(len(answer.tokens)),
            first_token_seconds=clock.seconds_after(1),
        )

    @contextmanager
    def _inference(self) -> Iterator[None]:
        import torch

        switched_off = nullcontext() if self._adapter else self._model.disable_adapter()
        try:
            with torch.inference_mode(), switched_off:
                yield
        except torch.OutOfMemoryError as exc:
            raise StageError(
                f"{self._name} ran out of GPU memory: {exc}",
                "answer fewer at once: --batch-size 1",
                "or allow smaller images: model.max_pixels=N",
            ) from exc


def _last_answer_start(labels: Sequence[int]) -> int:
    """Index of the first token of the last supervised stretch."""
    position = max(i for i, label in enumerate(labels) if label != -100)
    while position > 0 and labels[position - 1] != -100:
        position -= 1
    return position
