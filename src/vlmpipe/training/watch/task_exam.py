"""The task's primary metric of a model that is being trained, which notices nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines.hf import HfEngine
from vlmpipe.errors import StageError
from vlmpipe.evaluation.measuring import MetricPool
from vlmpipe.tasks import task_of


def task_exam(
    model: Any,
    encoder: Encoder,
    samples: Sequence[Sample],
    *,
    max_new_tokens: int,
    prepared: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Callable[[], float]:
    """A function that answers the samples greedily and gives the mean of their primary metrics.

    `model` is the bare one, with its adapter and without wrappers of a process group; `prepared`
    is entered around each exam, to put a tower back that has left the device. Samples are seen as
    they are served: at the contract's image size. An answer that cannot be measured counts 0.

    Raises:
        StageError: when there are no samples.
    """
    if not samples:
        raise StageError(
            "early stopping needs held-out samples, and there are none",
            "hold some out: data.heldout_fraction=0.1",
            "or train without: train.watch.early_stopping.patience=null",
        )

    def exam() -> float:
        with unnoticed(model), prepared():
            engine = HfEngine(model, encoder, "hf:training")
            texts = [
                engine.complete(sample.prompt, max_new_tokens=max_new_tokens).text
                for sample in samples
            ]
        return _mean_metric(samples, texts)

    return exam


@contextmanager
def unnoticed(model: Any) -> Iterator[None]:
    """Evaluation mode within; afterwards each module's mode, the random numbers to come, and what
    generation leaves in the model are as they were.
    """
    import torch

    modes = [(module, module.training) for module in model.modules()]
    # Qwen-VL keeps the last conversation's M-RoPE offset for the next token.
    deltas = [(module, module.rope_deltas) for module, _ in modes if hasattr(module, "rope_deltas")]
    devices = [model.device] if model.device.type == "cuda" else []
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, delta in deltas:
            module.rope_deltas = delta


def _mean_metric(samples: Sequence[Sample], texts: Sequence[str]) -> float:
    """Measured in a process of its own: an answer is text that nobody vouches for."""
    with MetricPool(workers=1) as pool:
        futures = [
            pool.submit(sample.task, text, sample.reference)
            for sample, text in zip(samples, texts, strict=True)
        ]
        found = [
            pool.measured(sample.task, future)
            for sample, future in zip(samples, futures, strict=True)
        ]
    values = [
        each.metrics.get(task_of(sample.task).primary_metric, 0.0)
        for sample, each in zip(samples, found, strict=True)
    ]
    return sum(values) / len(values)
