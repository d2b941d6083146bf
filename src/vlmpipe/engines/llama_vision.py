"""The vision half of a GGUF pair: an mmproj file, through llama.cpp's libmtmd."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlmpipe.engines.llama_log import last_errors
from vlmpipe.engines.llama_runtime import BATCH_TOKENS, LlamaRuntime
from vlmpipe.errors import ArtifactError, StageError

Part = str | Image.Image | tuple[int, int]
"""A text, an image on its grid, or only an image's width and height, to count its tokens."""


@dataclass(frozen=True)
class Chunk:
    """A stretch of a prompt as libmtmd cut it: text tokens, or one image."""

    tokens: tuple[int, ...]
    """Empty for an image."""

    n_tokens: int
    n_positions: int
    """M-RoPE positions that it takes: the longer side of the grid for an image."""

    handle: Any


class VisionProjector:
    """Tower and projector of one model; images it is given are already on their grid."""

    def __init__(
        self,
        mmproj: Path,
        runtime: LlamaRuntime,
        *,
        min_tokens: int,
        max_tokens: int,
        threads: int,
        use_gpu: bool,
    ) -> None:
        """Load an mmproj file for a model.

        Raises:
            ArtifactError: when it cannot be loaded, or does not belong to the model.
        """
        from llama_cpp import mtmd_cpp

        self._mtmd, self._runtime = mtmd_cpp, runtime
        if not mmproj.is_file():
            raise ArtifactError(
                f"there is no mmproj file {mmproj}",
                "make it: `vlmpipe convert` with the same options",
            )
        params = mtmd_cpp.mtmd_context_params_default()
        params.n_threads, params.use_gpu = threads, use_gpu
        params.print_timings = params.warmup = False
        params.flash_attn_type = 0
        params.image_min_tokens, params.image_max_tokens = min_tokens, max_tokens
        last_errors()
        self._context = mtmd_cpp.mtmd_init_from_file(os.fsencode(mmproj), runtime.model, params)
        if not self._context or not mtmd_cpp.mtmd_support_vision(self._context):
            raise ArtifactError(
                f"llama.cpp cannot use {mmproj} with this model",
                "convert both again: `vlmpipe run-all --force convert` with the same options",
                problems=last_errors(),
            )

    @contextmanager
    def chunks(self, parts: Sequence[Part]) -> Iterator[list[Chunk]]:
        """A prompt cut into chunks, which live as long as the context.

        libmtmd puts vision_start and vision_end around an image itself. Nothing in a text can
        stand for an image: parts are handed over as parts, not by a marker in the text.

        Raises:
            StageError: when libmtmd refuses the prompt.
        """
        with ExitStack() as stack:
            pointers = [self._pointer(part, stack) for part in parts]
            array = (ctypes.POINTER(self._mtmd.mtmd_input_part) * len(pointers))(*pointers)
            output = self._mtmd.mtmd_input_chunks_init()
            stack.callback(self._mtmd.mtmd_input_chunks_free, output)
            code = self._mtmd.mtmd_tokenize_from_parts(
                self._context, output, array, len(pointers), False
            )
            if code != 0:
                raise StageError(
                    f"llama.cpp cannot take this prompt (code {code})", problems=last_errors()
                )
            count = self._mtmd.mtmd_input_chunks_size(output)
            yield [
                self._chunk(self._mtmd.mtmd_input_chunks_get(output, index))
                for index in range(count)
            ]

    def evaluate_image(self, chunk: Chunk, position: int) -> None:
        """Encode an image and put it into the model's context at a position.

        Raises:
            StageError: when llama.cpp cannot.
        """
        after = ctypes.c_int32(position)
        code = self._mtmd.mtmd_helper_eval_chunk_single(
            self._context,
            self._runtime.context,
            chunk.handle,
            position,
            0,
            BATCH_TOKENS,
            False,
            ctypes.byref(after),
        )
        if code != 0:
            raise StageError(
                f"llama.cpp could not evaluate an image (code {code})", problems=last_errors()
            )

    def image_tokens(self, height: int, width: int) -> int:
        """Tokens that an image of this size takes in libmtmd; nothing is encoded."""
        with self.chunks([(width, height)]) as chunks:
            return sum(chunk.n_tokens for chunk in chunks if not chunk.tokens)

    def features(self, image: Image.Image) -> np.ndarray:
        """What tower and projector make of an image: [tokens, values a token], float32.

        Where the family feeds several levels of the tower into the model, all of them side by side.

        Raises:
            StageError: when llama.cpp cannot encode it.
        """
        with self.chunks([image]) as chunks:
            chunk = next(chunk for chunk in chunks if not chunk.tokens)
            code = self._mtmd.mtmd_encode_chunk(self._context, chunk.handle)
            if code != 0:
                raise StageError(
                    f"llama.cpp could not encode an image (code {code})", problems=last_errors()
                )
            values = self._mtmd.mtmd_get_output_embd(self._context)
            shape = chunk.n_tokens, self._runtime.n_embd_inp
            return np.ctypeslib.as_array(values, shape=shape).copy()

    def _pointer(self, part: Part, stack: ExitStack) -> Any:
        if isinstance(part, str):
            data = part.encode()
            text = self._mtmd.mtmd_input_text(data, len(data), False, True)
            # The structure keeps the bytes alive, the pointer keeps the structure.
            return ctypes.pointer(self._mtmd.mtmd_input_part(ctypes.pointer(text), None))
        bitmap = self._bitmap(part)
        stack.callback(self._mtmd.mtmd_bitmap_free, bitmap)
        return ctypes.pointer(self._mtmd.mtmd_input_part(None, bitmap))

    def _bitmap(self, part: Image.Image | tuple[int, int]) -> Any:
        if isinstance(part, tuple):
            return self._mtmd.mtmd_bitmap_init(*part, None)
        pixels = part.tobytes()
        data = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
        return self._mtmd.mtmd_bitmap_init(part.width, part.height, data)

    def _chunk(self, handle: Any) -> Chunk:
        tokens: tuple[int, ...] = ()
        if self._mtmd.mtmd_input_chunk_get_type(handle) == self._mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            count = ctypes.c_size_t()
            pointer = self._mtmd.mtmd_input_chunk_get_tokens_text(handle, ctypes.byref(count))
            tokens = tuple(pointer[: count.value])
        return Chunk(
            tokens=tokens,
            n_tokens=int(self._mtmd.mtmd_input_chunk_get_n_tokens(handle)),
            n_positions=int(self._mtmd.mtmd_input_chunk_get_n_pos(handle)),
            handle=handle,
        )

    def close(self) -> None:
        """Free the tower."""
        if self._context:
            self._mtmd.mtmd_free(self._context)
            self._context = None
