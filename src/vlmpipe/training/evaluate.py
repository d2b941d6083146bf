"""Mean loss over samples, without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmpipe.config.train import LossScope
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.training.batching.layout import pad_batch
from vlmpipe.training.vision_cache.features import autocast


def mean_loss(
    model: Any,
    samples: Sequence[Sample],
    encoder: Encoder,
    scope: LossScope,
    grid: ImageGrid,
    autocast_dtype: Any = None,
) -> float:
    """Cross entropy in nats, a mean over all supervised tokens of all samples.

    `model` has the supervised head installed; `autocast_dtype` is what its trainer casts to, None
    where it casts nothing.
    """
    import torch

    total, count = 0.0, 0
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        for sample in samples:
            encoded = encoder.encode_sample(sample.messages, scope, grid)
            batch = pad_batch([encoded], encoder.tokenizer.pad_token_id)
            inputs = {key: value.to(device) for key, value in batch.items()}
            with torch.inference_mode(), autocast(device.type, autocast_dtype):
                outputs = model(**inputs, use_cache=False, supervised_head=True)
            total += float(outputs.loss_sum)
            count += outputs.tokens
    finally:
        model.train(training)
    return total / max(count, 1)
