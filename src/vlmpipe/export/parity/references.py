"""What the upper rungs are: the adapter as it was trained, on the merge's own base, and merged.

All multiply in float32 where that fits, or none does. Then two models differ by their weights
alone; bfloat16 arithmetic would add noise of its own to every comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines.hf import HfEngine
from vlmpipe.errors import StageError
from vlmpipe.evaluation.validation.subjects import with_adapter
from vlmpipe.models.adapter_base import AdapterBase, read_adapter_base
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.families import stated_dtype
from vlmpipe.models.loading import (
    best_device,
    load_model,
    load_tokenizer,
    release_memory,
    resolve_dtype,
)

FLOAT32_BYTES = 4
MARGIN = 1.5
"""Free memory asked for, in sizes of the whole model: a 16-bit copy stands beside it at first."""

ADAPTER, SAME_BASE, MERGED = "adapter", "adapter on w16", "merged"


@dataclass(frozen=True)
class Trained:
    """What train handed on, with what is needed to run it."""

    config: Config
    base: BaseModelFolder
    folder: Path
    contract: PreprocessContract

    @property
    def is_full(self) -> bool:
        """Whether whole weights were trained, and not an adapter."""
        return not (self.folder / "adapter").is_dir()

    @cached_property
    def held(self) -> AdapterBase | None:
        """How the base was held in training; None for a full training.

        Raises:
            StageError: when the adapter was trained on another base.
        """
        return None if self.is_full else read_adapter_base(self.folder / "adapter", self.base)

    @property
    def on_4bit(self) -> bool:
        """Whether the base was held in 4 bit."""
        return self.held is not None and self.held.quantization is not None

    @cached_property
    def in_float32(self) -> bool:
        """Whether every rung of this stage multiplies in float32: one decision for all of them,
        since two rungs of different precision would differ by their arithmetic.
        """
        return free_bytes() > self.base.parameters * FLOAT32_BYTES * MARGIN

    @property
    def compute(self) -> str:
        """Precision of all multiplications, as `parity.json` has it."""
        return "float32" if self.in_float32 else resolve_dtype(self.config.model.dtype)

    @property
    def attention(self) -> str:
        """Implementation of attention; flash attention has none for float32."""
        asked = self.config.model.attn_implementation
        return "sdpa" if self.in_float32 and asked.startswith("flash") else asked


@contextmanager
def as_trained(trained: Trained) -> Iterator[HfEngine]:
    """The adapter on the base as it was held in training; the trained model of a full one."""
    held = trained.held

    def load() -> Any:
        model = load_model(
            trained.base.folder if held else trained.folder / "model",
            dtype=held.dtype if held else resolve_dtype(trained.config.model.dtype),
            quantization=held.quantization if held else None,
            attn_implementation=trained.attention,
        )
        return with_adapter(model, trained.folder / "adapter") if held else model

    with _opened(load, trained, trained.base.folder, ADAPTER) as engine:
        yield engine


@contextmanager
def on_16_bit(trained: Trained, dtype: str) -> Iterator[HfEngine]:
    """The adapter beside the 16-bit base that it is folded into, not yet folded."""

    def load() -> Any:
        folder, attention = trained.base.folder, trained.attention
        model = load_model(folder, dtype=dtype, attn_implementation=attention)
        return with_adapter(model, trained.folder / "adapter")

    with _opened(load, trained, trained.base.folder, SAME_BASE) as engine:
        yield engine


@contextmanager
def whole_model(trained: Trained, folder: Path) -> Iterator[HfEngine]:
    """A complete folder, merged or base, its weights in their own precision."""

    def load() -> Any:
        dtype = stated_dtype(folder)
        return load_model(folder, dtype=dtype, attn_implementation=trained.attention)

    with _opened(load, trained, folder, MERGED) as engine:
        yield engine


@contextmanager
def _opened(
    load: Callable[[], Any], trained: Trained, tokenizer: Path, name: str
) -> Iterator[HfEngine]:
    """Load, hold, and give the memory back: llama.cpp wants the same GPU afterwards.

    Raises:
        StageError: when the model, or a probe's activations, do not fit into memory.
    """
    import torch

    encoder = Encoder(load_tokenizer(tokenizer), trained.contract)
    engine: HfEngine | None = None
    try:
        model = float32_compute(load()) if trained.in_float32 else load()
        engine = HfEngine(model.eval(), encoder, f"hf:{name}")
        del model
        yield engine
    except torch.OutOfMemoryError as exc:
        raise StageError(
            f"the parity ladder's rung {name!r} does not fit into the GPU's memory",
            "ask fewer probes or shorter ones: parity.probes=N",
            "or free the GPU of other programs",
        ) from exc
    finally:
        if engine is not None:
            engine.close()
        release_memory()


def float32_compute(model: Any) -> Any:
    """The model computing in float32, its weights' values as they are.

    4-bit weights stay 4-bit: they are expanded to float32 for each multiplication.
    """
    import torch

    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
            module.compute_type_is_set = True
    return model.float()


def free_bytes() -> int:
    """Free memory where models are loaded."""
    if best_device().startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil

    return int(psutil.virtual_memory().available)
