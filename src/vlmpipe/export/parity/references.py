"""What the upper rungs are: the adapter as it was trained, on the merge's own base, and merged.

All multiply in float32 where that fits. Then two models differ by their weights alone; bfloat16
arithmetic would add noise of its own to every comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines.hf import HfEngine
from vlmpipe.evaluation.subjects import with_adapter
from vlmpipe.models.adapter_base import AdapterBase, read_adapter_base
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.families import read_model_config
from vlmpipe.models.loading import load_model, load_tokenizer, resolve_dtype

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


@contextmanager
def as_trained(trained: Trained) -> Iterator[HfEngine]:
    """The adapter on the base as it was held in training; the trained model of a full one."""
    settings, held = trained.config.model, trained.held
    loaded = load_model(
        trained.base.folder if held else trained.folder / "model",
        dtype=held.dtype if held else resolve_dtype(settings.dtype),
        quantization=held.quantization if held else None,
        attn_implementation=settings.attn_implementation,
    )
    if held:
        loaded = with_adapter(loaded, trained.folder / "adapter")
    with _opened(loaded, trained.base.folder, trained.contract, ADAPTER) as engine:
        yield engine


@contextmanager
def on_16_bit(trained: Trained, dtype: str) -> Iterator[HfEngine]:
    """The adapter beside the 16-bit base that it is folded into, not yet folded."""
    loaded = load_model(
        trained.base.folder,
        dtype=dtype,
        attn_implementation=trained.config.model.attn_implementation,
    )
    loaded = with_adapter(loaded, trained.folder / "adapter")
    with _opened(loaded, trained.base.folder, trained.contract, SAME_BASE) as engine:
        yield engine


@contextmanager
def merged_engine(config: Config, folder: Path, contract: PreprocessContract) -> Iterator[HfEngine]:
    """A merged folder, its weights in their own precision."""
    settings = read_model_config(folder)
    loaded = load_model(
        folder,
        dtype=str(settings.get("dtype") or settings.get("torch_dtype")),
        attn_implementation=config.model.attn_implementation,
    )
    with _opened(loaded, folder, contract, MERGED) as engine:
        yield engine


@contextmanager
def _opened(
    model: Any, tokenizer: Path, contract: PreprocessContract, name: str
) -> Iterator[HfEngine]:
    encoder = Encoder(load_tokenizer(tokenizer), contract)
    engine = HfEngine(in_float32(model).eval(), encoder, f"hf:{name}")
    try:
        yield engine
    finally:
        engine.close()


def in_float32(model: Any) -> Any:
    """The model computing in float32, its weights' values as they are; unchanged where twice its
    size does not fit into free memory.

    4-bit weights stay 4-bit: they are expanded to float32 for each multiplication.
    """
    needed = 2 * sum(each.numel() * 4 for each in model.parameters())
    if needed >= _free_bytes(model):
        return model
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            import torch

            module.compute_dtype = torch.float32
            module.compute_type_is_set = True
    return model.float()


def _free_bytes(model: Any) -> int:
    """Free memory where the model lies."""
    if model.device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(model.device)[0])
    import psutil

    return int(psutil.virtual_memory().available)
