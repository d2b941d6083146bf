"""The two models that are compared, as engines over one base: adapter off, adapter on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.contract import read_contract
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines.base import Engine
from vlmpipe.engines.hf import HfEngine
from vlmpipe.errors import ArtifactError
from vlmpipe.evaluation.validation.comparison import BASE, TUNED
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.loading import load_model, load_tokenizer, resolve_dtype
from vlmpipe.training.adapter import load_adapter_weights
from vlmpipe.training.phase_adapters import FINAL, PhaseAdapter, read_index


@dataclass(frozen=True)
class Subjects:
    """Both engines, and the adapter of every phase on the same base."""

    engines: Mapping[str, Engine]
    """`base` and `tuned`."""

    vocabulary: int
    """Tokens that the model chooses from."""

    phases: tuple[PhaseAdapter, ...] = ()
    """Empty where training had one phase, or trained whole weights."""

    adapted: Any = None
    train_folder: Path = Path()

    @contextmanager
    def after(self, phase: PhaseAdapter) -> Iterator[Engine]:
        """`tuned` as it was when that phase ended; afterwards it is the final one again."""
        self._switch_to(phase.folder)
        try:
            yield self.engines[TUNED]
        finally:
            self._switch_to(FINAL)

    def _switch_to(self, folder: str) -> None:
        load_adapter_weights(self.adapted, self.train_folder / folder)


@contextmanager
def open_subjects(config: Config, base: BaseModelFolder, train_folder: Path) -> Iterator[Subjects]:
    """`base` and `tuned`, the base held as it was in training (4-bit for qlora).

    Both read images and text by the contract that train wrote. With train.method=full there are
    two models in memory, else one whose adapter is switched.

    Raises:
        ArtifactError: when train's folder holds no adapter that fits the base.
    """
    encoder = Encoder(load_tokenizer(base.folder), read_contract(train_folder))
    model = load_as_trained(config, base.folder)
    vocabulary = len(encoder.tokenizer)
    if config.train.method == "full":
        tuned = load_as_trained(config, train_folder / "model")
        engines = {
            BASE: HfEngine(model, encoder, "hf:base"),
            TUNED: HfEngine(tuned, encoder, "hf:full"),
        }
        subjects = Subjects(engines, vocabulary)
    else:
        adapted = with_adapter(model, train_folder / FINAL)
        engines = {
            BASE: HfEngine(adapted, encoder, "hf:base", adapter=False),
            TUNED: HfEngine(adapted, encoder, "hf:adapter"),
        }
        subjects = Subjects(engines, vocabulary, read_index(train_folder), adapted, train_folder)
    try:
        yield subjects
    finally:
        for engine in engines.values():
            engine.close()


def with_adapter(model: Any, folder: Path) -> Any:
    """The model with a trained adapter on it, in evaluation mode.

    Raises:
        ArtifactError: when the adapter cannot be read or was made for another model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=False).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        raise ArtifactError(
            f"the adapter in {folder} does not go onto this base model: {str(exc).splitlines()[0]}",
            "train it again: `vlmpipe run-all --force train`",
        ) from exc


def load_as_trained(config: Config, folder: Path) -> Any:
    """A model held as it was in training: 4-bit for qlora."""
    quantization = config.train.quantization if config.train.method == "qlora" else None
    return load_model(
        folder,
        dtype=resolve_dtype(config.model.dtype),
        quantization=quantization,
        attn_implementation=config.model.attn_implementation,
    )
