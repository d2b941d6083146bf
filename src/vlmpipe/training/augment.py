"""Which kernel resizes an image in training: drawn by lot, the same lot after a resume."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from vlmpipe.config.train import ResizeKernel


class KernelLot:
    """Draws by seed, phase, epoch, sample and image, and from nothing that happened before."""

    def __init__(self, kernels: Sequence[ResizeKernel], seed: int) -> None:
        self._kernels = tuple(kernels)
        self._seed = seed
        self.epoch = 0
        """Of the phase that trains now; see `EpochOfLot`."""

    def draw(self, sample: str, phase: int, epoch: int, image: int) -> ResizeKernel:
        """The kernel of a sample's image in this pass over the phase's samples."""
        text = f"{self._seed}/{phase}/{epoch}/{image}/{sample}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return self._kernels[number % len(self._kernels)]


class EpochOfLot(TrainerCallback):
    """Tells the lot the epoch, which a collator is not told."""

    def __init__(self, lot: KernelLot) -> None:
        self._lot = lot

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called before an epoch's first batch is made; resumed ones begin in the middle."""
        self._lot.epoch = int(state.epoch or 0)
