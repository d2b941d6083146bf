"""Rows of a micro-batch to tensors; encoded when they are needed, at their phase's image size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlmpipe.config.train import LossScope, ResizeKernel
from vlmpipe.data.store import origin_of
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import IGNORED, Encoded, Encoder
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import StageError, VlmpipeError
from vlmpipe.training.augment import KernelLot
from vlmpipe.training.batching.layout import pack_batch, pad_batch
from vlmpipe.training.batching.positions import Positions
from vlmpipe.training.batching.rows import Row
from vlmpipe.training.vision_cache.features import ImageFeatures, collate_features

__all__ = ["FeatureSource", "PhaseCollator", "pad_batch"]

FeatureSource = Callable[[int, ImageGrid, Sequence[ResizeKernel]], Sequence[ImageFeatures]]
"""Sample, image grid and each image's kernel to its images' features; no image is decoded."""


class PhaseCollator:
    """Turns the rows of a micro-batch into tensors, at the image size of one phase.

    With `positions` samples go into one packed row. With `features` no image is decoded: the batch
    holds `image_features` [G, H], and `deepstack_features` [levels, G, H] where the family has
    them, in place of `pixel_values`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        encoder: Encoder,
        scope: LossScope,
        grid: ImageGrid,
        *,
        phase: int = 0,
        lot: KernelLot | None = None,
        positions: Positions | None = None,
        features: FeatureSource | None = None,
    ) -> None:
        self.tokenizer = encoder.tokenizer
        self._samples = samples
        self._encoder = encoder
        self._scope = scope
        self._grid = grid
        self._phase = phase
        self._lot = lot
        self._positions = positions
        self._features = features

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """One batch; see `layout` for its tensors.

        Raises:
            StageError: naming a sample that cannot be encoded, and where it came from.
        """
        return self.packed(rows) if self._positions else self.padded(rows)

    def padded(self, rows: Sequence[Row]) -> dict[str, Any]:
        """One row for each sample, padded on the right to the longest."""
        taken = [self._take(row) for row in rows]
        pad_id = self._encoder.tokenizer.pad_token_id
        return pad_batch([each.encoded for each in taken], pad_id) | _features(taken)

    def packed(self, rows: Sequence[Row]) -> dict[str, Any]:
        """One row of all samples.

        Raises:
            ValueError: for a collator without `positions`.
        """
        if self._positions is None:
            raise ValueError("samples cannot be packed without positions")
        taken = [self._take(row) for row in rows]
        return pack_batch([each.encoded for each in taken], self._positions) | _features(taken)

    def _take(self, row: Row) -> _Taken:
        """Whatever goes wrong with a sample is told with its name: Pillow alone raises nearly
        everything on damaged files.
        """
        sample: Sample | None = None
        try:
            sample = self._samples[row.sample]
            return self._encode(sample, row)
        except (VlmpipeError, MemoryError):
            raise
        except Exception as exc:
            raise StageError(
                f"{self._name(row, sample)} cannot be encoded: {type(exc).__name__}: {exc}",
                "mend or remove it in its source, then prepare the data again: vlmpipe setup",
            ) from exc

    def _name(self, row: Row, sample: Sample | None) -> str:
        """By its number only where it can neither be read nor told from outside."""
        if sample is not None:
            return f"sample {sample.id} ({sample.origin})"
        origin = origin_of(self._samples, row.sample)
        return f"training sample number {row.sample}" + (f" ({origin})" if origin else "")

    def _encode(self, sample: Sample, row: Row) -> _Taken:
        kernels = self._kernels(sample, row)
        encoded = self._encoder.encode_sample(
            sample.messages, self._scope, self._grid, kernels, pixels=self._features is None
        )
        # A first token follows nothing that could foretell it. In a packed row it would be foretold
        # by another sample's last, and in any layout it would be counted.
        labels = [IGNORED, *encoded.labels[1:]]
        return _Taken(
            replace(encoded, labels=[IGNORED] * len(labels) if row.muted else labels),
            () if self._features is None else self._features(row.sample, self._grid, kernels),
        )

    def _kernels(self, sample: Sample, row: Row) -> list[ResizeKernel]:
        if self._lot is None:
            return ["bicubic"] * len(sample.images)
        places = range(len(sample.images))
        return [self._lot.draw(sample.id, self._phase, row.epoch, place) for place in places]


@dataclass(frozen=True)
class _Taken:
    encoded: Encoded
    features: Sequence[ImageFeatures]
    """Of its images; empty where the tower runs live."""


def _features(taken: Sequence[_Taken]) -> dict[str, Any]:
    """Of all images, in order."""
    images = [image for each in taken for image in each.features]
    if not images:
        return {}
    tokens, levels = collate_features(images)
    batch = {"image_features": tokens}
    return batch if levels is None else batch | {"deepstack_features": levels}
