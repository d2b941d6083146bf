"""What the steps of a training hold: samples, tokens, FLOPs, over all processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmpipe.encoding.encoder import IGNORED
from vlmpipe.training.watch.flops import WORK_FIELDS, ModelFlops, Work


class CountedSteps:
    """Mixin before a transformers Trainer: puts the counts of each step into its logs.

    `samples`, `tokens`, `supervised_tokens`, `model_flops`, `hardware_flops`: without padding and
    muted rows, summed over processes. Counted on the device, and waited for once a step, where the
    loss is waited for anyway.
    """

    flops: ModelFlops
    window: int | None = None
    """See `flops.window_side`."""

    # Of the Trainer that this is mixed into.
    accelerator: Any
    _counts: Any = None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Count the micro-batch, and train on it."""
        counts = work_of(inputs, self.window)
        self._counts = counts if self._counts is None else self._counts + counts
        return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the counts of the step that is logged."""
        if "loss" in logs and self._counts is not None:
            summed = self.accelerator.reduce(self._counts.to(self.accelerator.device), "sum")
            work = Work(*(int(count) for count in summed.tolist()))
            self._counts = None
            logs |= {
                "samples": work.samples,
                "tokens": work.tokens,
                "supervised_tokens": work.supervised,
                "model_flops": self.flops.model(work),
                "hardware_flops": self.flops.hardware(work),
            }
        super().log(logs, start_time)  # type: ignore[misc]


def work_of(batch: Mapping[str, Any], window: int | None = None) -> Any:
    """Counts of one micro-batch in the order of `Work`: int64 [7] on the batch's device.

    The positions of a sample of L tokens are 0 to L-1, and the sum of 2p + 1 over them is L^2.
    """
    import torch

    labels = batch["labels"]
    supervised = labels[:, 1:] != IGNORED
    positions, real = _positions(batch)
    real = real & supervised.any(dim=1, keepdim=True)  # muted rows are no work
    images = _image_work(batch, window) * supervised.any()
    counts = torch.stack(
        [
            (real & (positions == 0)).sum(),
            real.sum(),
            ((2 * positions + 1) * real).sum(),
            supervised.sum(),
        ]
    )
    return torch.cat([counts, images.to(counts.device)])


def _positions(batch: Mapping[str, Any]) -> tuple[Any, Any]:
    """[B, T] places within samples, and which of them hold a token."""
    import torch

    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    if mask is not None:
        return mask.long().cumsum(dim=1) - 1, mask.bool()
    places = batch.get("position_ids")
    if places is None:
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    # Multimodal positions are [4, B, T], the text's own row first.
    return (places[0] if places.dim() == 3 else places), torch.ones_like(ids, dtype=torch.bool)


def _image_work(batch: Mapping[str, Any], window: int | None) -> Any:
    """Patches, their pairs, and their pairs within windows: [3]."""
    import torch

    if "pixel_values" not in batch:
        return torch.zeros(len(WORK_FIELDS) - 4, dtype=torch.int64)
    times, heights, widths = batch["image_grid_thw"].long().unbind(dim=1)
    frames = heights * widths
    pairs = frames**2
    windowed = _squares(heights, window) * _squares(widths, window) if window else pairs * 0
    return torch.stack([(times * each).sum() for each in (frames, pairs, windowed)])


def _squares(sides: Any, window: int) -> Any:
    """Sum of the squares of the pieces that windows cut sides into."""
    return sides // window * window**2 + (sides % window) ** 2
