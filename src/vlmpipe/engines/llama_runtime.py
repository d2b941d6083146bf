"""A GGUF language model in this process: tokens in, logits out, through llama.cpp's C interface.

The interface itself and not llama-cpp-python's `Llama`: that class keeps positions and tokens as
one number, which they are not once an image is in the context, and keeps logits for the whole
context or for none.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmpipe.engines.llama_log import capture_log, last_errors
from vlmpipe.errors import ArtifactError, StageError, ToolError

BATCH_TOKENS = 512
"""Tokens that are evaluated at once."""

SCORED_TOKENS = 64
"""The same where each one's logits are kept: 152,000 of them a token in a real vocabulary."""


def available_cpus() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


class LlamaRuntime:
    """One model, one context, one sequence."""

    def __init__(self, gguf: Path, *, n_ctx: int, n_threads: int, n_gpu_layers: int) -> None:
        """Load a model.

        Raises:
            ToolError: when llama-cpp-python is not installed.
            ArtifactError: when the file cannot be loaded.
        """
        self._llama = _import_llama_cpp()
        self.model = _load_model(self._llama, gguf, n_gpu_layers)
        self.vocab = self._llama.llama_model_get_vocab(self.model)
        self.vocab_size: int = self._llama.llama_vocab_n_tokens(self.vocab)
        self.context = self._new_context(gguf, n_ctx, n_threads)
        self._batch = self._llama.llama_batch_init(BATCH_TOKENS, 0, 1)

    def _new_context(self, gguf: Path, n_ctx: int, n_threads: int) -> Any:
        params = self._llama.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_threads = params.n_threads_batch = n_threads
        params.flash_attn_type = self._llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = self._llama.llama_init_from_model(self.model, params)
        if not context:
            self._llama.llama_model_free(self.model)
            raise ArtifactError(
                f"llama.cpp cannot hold a context of {n_ctx} tokens for {gguf}",
                "ask for less: deploy.context_length=N",
                problems=last_errors(),
            )
        return context

    @property
    def n_ctx(self) -> int:
        """Tokens that the context holds."""
        return int(self._llama.llama_n_ctx(self.context))

    @property
    def n_ctx_train(self) -> int:
        """Tokens that the model was made for."""
        return int(self._llama.llama_model_n_ctx_train(self.model))

    @property
    def n_embd_inp(self) -> int:
        """Values that stand for one token at the model's input."""
        return int(self._llama.llama_model_n_embd_inp(self.model))

    def tokenize(self, text: str) -> list[int]:
        """Token ids; control tokens written in the text are taken as such."""
        data = text.encode()
        buffer = (self._llama.llama_token * (len(data) + 1))()
        count = self._llama.llama_tokenize(
            self.vocab, data, len(data), buffer, len(buffer), False, True
        )
        return list(buffer[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Bytes that a token stands for; for a control token none, or its name with `special`."""
        buffer = ctypes.create_string_buffer(512)
        count = self._llama.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[: max(count, 0)]

    def ends_generation(self, token: int) -> bool:
        """Whether the model itself marks the token as an end."""
        return bool(self._llama.llama_vocab_is_eog(self.vocab, token))

    def clear(self) -> None:
        """Forget the sequence."""
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self.context), True)

    def evaluate(
        self, tokens: Sequence[int], position: int, *, logits: str = "none"
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Evaluate text tokens from a position on.

        Yields, for the `last` token or for `all`, its index in `tokens` and a view on its logits
        [vocabulary], valid until the next item is asked for.

        Raises:
            StageError: when llama.cpp cannot evaluate them.
        """
        size = SCORED_TOKENS if logits == "all" else BATCH_TOKENS
        for begin in range(0, len(tokens), size):
            part = tokens[begin : begin + size]
            last = begin + len(part) == len(tokens)
            wanted = range(len(part)) if logits == "all" else [len(part) - 1]
            if logits == "none" or (logits == "last" and not last):
                wanted = []
            self._decode(part, position + begin, wanted)
            for index in wanted:
                yield begin + index, self._row(index)

    def _decode(self, tokens: Sequence[int], position: int, wanted: Sequence[int]) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = position + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = 0
        for index in wanted:
            batch.logits[index] = 1
        code = self._llama.llama_decode(self.context, batch)
        if code != 0:
            raise StageError(
                f"llama.cpp could not evaluate {len(tokens)} tokens (code {code})",
                problems=last_errors(),
            )

    def _row(self, index: int) -> np.ndarray:
        pointer = self._llama.llama_get_logits_ith(self.context, index)
        return np.ctypeslib.as_array(pointer, shape=(self.vocab_size,))

    def close(self) -> None:
        """Free context and model."""
        if self.context:
            self._llama.llama_batch_free(self._batch)
            self._llama.llama_free(self.context)
            self._llama.llama_model_free(self.model)
            self.context = self.model = None


def _import_llama_cpp() -> Any:
    try:
        import llama_cpp
    except ImportError as exc:
        raise ToolError(
            f"llama-cpp-python cannot be imported: {exc}",
            "install it: `make setup`, or `pip install 'vlmpipe[serve]'`",
        ) from exc
    capture_log()
    llama_cpp.llama_backend_init()
    return llama_cpp


def _load_model(llama: Any, gguf: Path, n_gpu_layers: int) -> Any:
    if not gguf.is_file():
        raise ArtifactError(
            f"there is no GGUF file {gguf}", "make it: `vlmpipe convert` with the same options"
        )
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0x7FFFFFFF if n_gpu_layers < 0 else n_gpu_layers
    last_errors()
    model = llama.llama_model_load_from_file(os.fsencode(gguf), params)
    if not model:
        raise ArtifactError(
            f"llama.cpp cannot load {gguf}",
            "convert again: `vlmpipe run-all --force convert` with the same options",
            problems=last_errors(),
        )
    return model
