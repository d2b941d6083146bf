"""Mean loss over samples, without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmpipe.config.train import LossScope
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import IGNORED, Encoder
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.training.batching.collator import pad_batch


def mean_loss(
    model: Any,
    samples: Sequence[Sample],
    encoder: Encoder,
    scope: LossScope,
    grid: ImageGrid,
) -> float:
    """Cross entropy in nats, a mean over all supervised tokens of all samples."""
    import torch

    total, count = 0.0, 0
    training = model.training
    model.eval()
    try:
        for sample in samples:
            encoded = encoder.encode_sample(sample.messages, scope, grid)
            batch = pad_batch([encoded], encoder.tokenizer.pad_token_id)
            labels = batch.pop("labels")[0, 1:]
            inputs = {key: value.to(model.device) for key, value in batch.items()}
            with torch.inference_mode():
                logits = model(**inputs, use_cache=False).logits[0, :-1].float().cpu()
            total += float(
                torch.nn.functional.cross_entropy(
                    logits, labels, ignore_index=IGNORED, reduction="sum"
                )
            )
            count += int((labels != IGNORED).sum())
    finally:
        model.train(training)
    return total / max(count, 1)
