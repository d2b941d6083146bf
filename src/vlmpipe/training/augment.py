"""Which kernel resizes an image in training: drawn by lot, the same lot after a resume."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from vlmpipe.config.train import ResizeKernel


class KernelLot:
    """Draws by seed, phase, epoch, sample and image, and from nothing that happened before."""

    def __init__(self, kernels: Sequence[ResizeKernel], seed: int) -> None:
        self._kernels = tuple(kernels)
        self._seed = seed

    def draw(self, sample: str, phase: int, epoch: int, image: int) -> ResizeKernel:
        """The kernel of a sample's image in this pass over the phase's samples."""
        text = f"{self._seed}/{phase}/{epoch}/{image}/{sample}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return self._kernels[number % len(self._kernels)]
