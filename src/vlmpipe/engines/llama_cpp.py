"""llama.cpp in this process: a GGUF file, its mmproj, and the contract they were trained under."""

from __future__ import annotations

import codecs
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from vlmpipe.encoding.chat import IMAGE_SLOT, Segment, render, render_segments
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.images import to_rgb
from vlmpipe.engines.base import Completion, EngineType, Forced, Score, log_softmax
from vlmpipe.engines.contract_check import count_faults, id_faults, refuse
from vlmpipe.engines.likely import Piece, choice_of
from vlmpipe.engines.llama_runtime import LlamaRuntime, available_cpus
from vlmpipe.engines.llama_vision import Chunk, VisionProjector
from vlmpipe.errors import ArtifactError, StageError

ANSWER_ROOM = 512
"""Tokens added to what the data needs, where no context length is asked for."""


class PromptTooLongError(StageError):
    """A conversation does not fit the engine's context."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"the conversation takes {tokens} tokens, the engine holds {limit}",
            "give it more: deploy.context_length=N",
            "or send a smaller image or less text",
        )
        self.tokens = tokens
        self.limit = limit


@dataclass
class _Run:
    """What one generation came to."""

    prompt_tokens: int
    started: float
    first_token_at: float | None = None
    tokens: int = 0
    stopped: bool = False


class LlamaCppEngine:
    """Greedy answers and teacher-forced scores of a GGUF model; see `engines.base.Engine`.

    One request at a time; not for use from several threads at once.
    """

    engine_type: EngineType = "llama_cpp"
    can_score = True

    def __init__(
        self,
        gguf: Path,
        mmproj: Path | None,
        contract: PreprocessContract,
        *,
        name: str,
        n_ctx: int | None = None,
        n_threads: int | None = None,
        n_gpu_layers: int = 0,
        resize: Literal["contract", "runtime"] = "contract",
    ) -> None:
        """Load the files and hold them against the contract.

        `n_ctx` defaults to what the data needs and room for an answer, `n_threads` to the cores
        at hand; `n_gpu_layers` -1 puts all on the GPU. `resize="runtime"` hands images over as
        they are, as a client of the bare runtime does: to measure what that costs.

        Raises:
            ArtifactError: when a file cannot be loaded, the pair does not fit the contract, or
                image-token counts or token ids differ from it.
        """
        self.name = name
        self.contract = contract
        self._resize: Literal["contract", "runtime"] = "contract"
        if contract.has_vision != (mmproj is not None):
            needs = "an mmproj file" if contract.has_vision else "no mmproj file"
            raise ArtifactError(f"a {contract.family} model takes {needs} beside {gguf}")
        threads = n_threads or available_cpus()
        self._vision: VisionProjector | None = None
        self._runtime = LlamaRuntime(
            gguf,
            n_ctx=n_ctx or contract.context_length + ANSWER_ROOM,
            n_threads=threads,
            n_gpu_layers=n_gpu_layers,
        )
        try:
            self._stop_ids = self._find_stop_tokens(gguf)
            if mmproj is not None:
                self._vision = self._load_vision(mmproj, threads, n_gpu_layers != 0)
            self._hold_against_contract(gguf, mmproj)
        except BaseException:
            self.close()
            raise
        # Only now: the contract states what images come to that it resized itself.
        self._resize = resize

    @property
    def version(self) -> str:
        """Of llama-cpp-python, which carries llama.cpp."""
        return f"llama-cpp-python {version('llama-cpp-python')}"

    @property
    def n_ctx(self) -> int:
        """Tokens that prompt and answer may take together."""
        return self._runtime.n_ctx

    @property
    def n_ctx_train(self) -> int:
        """The longest context that the model was made for."""
        return self._runtime.n_ctx_train

    def complete(self, messages: Sequence[Message], *, max_new_tokens: int) -> Completion:
        """Greedy answer to a conversation that ends with a user's turn.

        Raises:
            PromptTooLongError: when it does not fit the context.
        """
        answer = self.stream(messages, max_new_tokens=max_new_tokens)
        while True:
            try:
                next(answer)
            except StopIteration as done:
                completion: Completion = done.value
                return completion

    def stream(
        self, messages: Sequence[Message], *, max_new_tokens: int, top_logprobs: int | None = None
    ) -> Generator[Piece, None, Completion]:
        """The same answer in pieces, as tokens come; returns the whole.

        With `top_logprobs`, one piece for each token but the end of turn, with the token's
        probability and that many of the likeliest; without, pieces have text and nothing else.

        Raises:
            PromptTooLongError: when it does not fit the context.
        """
        started = time.perf_counter()
        prompt_tokens, position, row = self._begin(messages)
        room = self.n_ctx - prompt_tokens
        run = _Run(prompt_tokens, started, first_token_at=time.perf_counter())
        pieces: list[str] = []
        for piece in self._generate(row, position, min(max_new_tokens, room), run, top_logprobs):
            pieces.append(piece.text)
            yield piece
        return _completion("".join(pieces), run)

    def follow(self, messages: Sequence[Message], tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """Log-probabilities [vocabulary], float64, at each of the given tokens of an answer.

        By their ids, since text can be cut into other tokens than those that were generated, and
        one at a time, so that the arithmetic is that of generation.

        Raises:
            PromptTooLongError: when both together do not fit the context.
        """
        prompt_tokens, position, row = self._begin(messages)
        if prompt_tokens + len(tokens) > self.n_ctx:
            raise PromptTooLongError(prompt_tokens + len(tokens), self.n_ctx)
        for index, token in enumerate(tokens):
            yield log_softmax(row)
            if index + 1 < len(tokens):
                row = self._next_row(token, position + index)

    def score(self, messages: Sequence[Message], answer: str) -> Score:
        """How likely `answer` and its end of turn are, teacher-forced.

        Raises:
            PromptTooLongError: when both together do not fit the context.
        """
        return self.forced(messages, answer).score()

    def forced(self, messages: Sequence[Message], answer: str) -> Forced:
        """Logits over the whole vocabulary at each token of the answer and its end of turn.

        Raises:
            PromptTooLongError: when both together do not fit the context.
        """
        turns = self.contract.conversation(messages)
        whole = [*turns, Message("assistant", (answer,))]
        segments = render_segments(self.contract.chat_template, whole)
        last = max(index for index, segment in enumerate(segments) if segment.answer)
        targets = self._runtime.tokenize(segments[last].text)
        logits = np.empty((len(targets), self._runtime.vocab_size), dtype=np.float32)
        with self._prompt(segments[:last], turns) as chunks:
            total = sum(chunk.n_tokens for chunk in chunks) + len(targets)
            if total > self.n_ctx:
                raise PromptTooLongError(total, self.n_ctx)
            position, logits[0] = self._prefill_logits(chunks)
        for index, row in self._runtime.evaluate(targets[:-1], position, logits="all"):
            logits[index + 1] = row
        return Forced(np.array(targets), logits)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a prompt as llama.cpp sees it; -1 for each token of an image."""
        turns = self.contract.conversation(messages)
        text = render(self.contract.chat_template, turns, add_generation_prompt=True)
        with self._prompt([Segment(text, answer=False)], turns) as chunks:
            return [id_ for chunk in chunks for id_ in chunk.tokens or [-1] * chunk.n_tokens]

    def image_features(self, image: Image.Image) -> np.ndarray:
        """What the tower makes of an image as the engine hands it over: [tokens, values]."""
        if self._vision is None:
            raise StageError(f"a {self.contract.family} model takes no images")
        return self._vision.features(self.handed_over(image))

    def handed_over(self, image: Image.Image) -> Image.Image:
        """The image as the runtime is given it."""
        return to_rgb(image) if self._resize == "runtime" else self.contract.grid.prepare(image)

    def close(self) -> None:
        """Free the model and the tower."""
        if self._vision is not None:
            self._vision.close()
        self._runtime.close()

    def _find_stop_tokens(self, gguf: Path) -> frozenset[int]:
        ids = {}
        for token in self.contract.stop_tokens:
            found = self._runtime.tokenize(token)
            if len(found) != 1:
                raise ArtifactError(f"{gguf} does not know the stop token {token} as one token")
            ids[token] = found[0]
        return frozenset(ids.values())

    def _hold_against_contract(self, gguf: Path, mmproj: Path | None) -> None:
        problems = list(id_faults(self.contract, self.prompt_ids))
        if self._vision is not None:
            tokens_of = self._vision.image_tokens
            problems += count_faults(self.contract, lambda size: tokens_of(*size))
        refuse(problems, f"llama.cpp with {gguf}" + (f" and {mmproj}" if mmproj else ""))

    def _load_vision(self, mmproj: Path, threads: int, use_gpu: bool) -> VisionProjector:
        contract = self.contract
        return VisionProjector(
            mmproj,
            self._runtime,
            min_tokens=contract.min_image_tokens,
            max_tokens=contract.max_image_tokens,
            threads=threads,
            use_gpu=use_gpu,
        )

    @contextmanager
    def _prompt(
        self, segments: Sequence[Segment], turns: Sequence[Message]
    ) -> Iterator[list[Chunk]]:
        images = iter([image for message in turns for image in message.images])
        parts = [part for segment in segments for part in self._parts(segment.text, images)]
        if self._vision is not None:
            with self._vision.chunks(parts) as chunks:
                yield chunks
            return
        tokens = [id_ for part in parts for id_ in self._runtime.tokenize(str(part))]
        yield [Chunk(tuple(tokens), len(tokens), len(tokens), None)]

    def _parts(self, text: str, images: Iterator[Image.Image]) -> Iterator[str | Image.Image]:
        first, *others = text.split(IMAGE_SLOT)
        if first:
            yield first
        for other in others:
            if self._vision is None:
                raise StageError(f"a {self.contract.family} model takes no images")
            yield self.handed_over(next(images))
            if other:
                yield other

    def _begin(self, messages: Sequence[Message]) -> tuple[int, int, np.ndarray]:
        """Tokens of the prompt, the position after it, and the logits of the first token."""
        turns = self.contract.conversation(messages)
        text = render(self.contract.chat_template, turns, add_generation_prompt=True)
        with self._prompt([Segment(text, answer=False)], turns) as chunks:
            prompt_tokens = sum(chunk.n_tokens for chunk in chunks)
            if prompt_tokens >= self.n_ctx:
                raise PromptTooLongError(prompt_tokens, self.n_ctx)
            return prompt_tokens, *self._prefill_logits(chunks)

    def _prefill_logits(self, chunks: Sequence[Chunk]) -> tuple[int, np.ndarray]:
        self._runtime.clear()
        position = 0
        row: np.ndarray | None = None
        for chunk in chunks:
            if chunk.tokens:
                logits = "last" if chunk is chunks[-1] else "none"
                for _, last in self._runtime.evaluate(chunk.tokens, position, logits=logits):
                    row = last
            elif self._vision is not None:
                self._vision.evaluate_image(chunk, position)
            position += chunk.n_positions
        if row is None:
            raise StageError("a prompt must end with text")
        return position, row

    def _next_row(self, token: int, position: int) -> np.ndarray:
        """Logits after one more token."""
        ((_, row),) = self._runtime.evaluate([token], position, logits="last")
        return row

    def _generate(
        self, row: np.ndarray, position: int, limit: int, run: _Run, top: int | None
    ) -> Iterator[Piece]:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while True:
            token = int(np.argmax(row))
            run.tokens += 1
            if token in self._stop_ids or self._runtime.ends_generation(token):
                run.stopped = True
                break
            text = decoder.decode(self._runtime.piece(token))
            if top is not None:
                yield Piece(text, choice_of(row, token, top, self._data_of))
            elif text:
                yield Piece(text)
            if run.tokens >= limit:
                break
            row = self._next_row(token, position)
            position += 1
        rest = decoder.decode(b"", final=True)
        if rest:
            yield Piece(rest)

    def _data_of(self, token: int) -> bytes:
        return self._runtime.piece(token, special=True)


def _completion(text: str, run: _Run) -> Completion:
    now = time.perf_counter()
    return Completion(
        text=text,
        finish_reason="stop" if run.stopped else "length",
        prompt_tokens=run.prompt_tokens,
        completion_tokens=run.tokens,
        seconds=now - run.started,
        first_token_seconds=(run.first_token_at or now) - run.started,
    )
