"""Primary metric and loss of a model that is being trained, which notices nothing of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from vlmpipe.config.train import EarlyStoppingSection
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines.hf import HfEngine
from vlmpipe.errors import StageError
from vlmpipe.evaluation.measuring import MetricPool
from vlmpipe.tasks import task_of


@dataclass(frozen=True)
class Exam:
    """What was measured on held-out samples."""

    metric: str
    """Primary metric of the samples' task; of several tasks, all of theirs."""

    samples: int
    value: float
    """Mean of the primary metric; larger is better."""

    loss: float
    """Nats a supervised token; decides between equal values."""

    def beats(self, other: Exam, min_gain: float) -> bool:
        """Whether it is better by more than `min_gain`, or alike with a lower loss."""
        gain = self.value - other.value
        return gain > min_gain or (gain == 0 and _known(self.loss) < _known(other.loss))

    @property
    def figures(self) -> str:
        """Without saying what of."""
        return f"{self.value:.4f}, loss {self.loss:.4f}"

    def __str__(self) -> str:
        plural = "" if self.samples == 1 else "s"
        return (
            f"{self.metric} {self.value:.4f}, loss {self.loss:.4f} on {self.samples} held-out"
            f" sample{plural}"
        )

    def as_row(self) -> dict[str, Any]:
        """As it stands in metrics.jsonl; a loss that is no number is left out."""
        row = {"metric": self.metric, "samples": self.samples, "value": self.value}
        return row | ({"heldout_loss": self.loss} if math.isfinite(self.loss) else {})


def _known(loss: float) -> float:
    """What is no number is worse than every number."""
    return loss if math.isfinite(loss) else math.inf


def refuse_without_heldout(settings: EarlyStoppingSection, heldout: int) -> None:
    """What early stopping cannot do without is known before a model is loaded.

    Raises:
        StageError: when it is asked for, and no sample was held out.
    """
    if settings.patience is not None and not heldout:
        raise StageError(
            "early stopping needs held-out samples, and there are none",
            "hold some out: data.heldout_fraction=0.1",
            "or train without: train.watch.early_stopping.patience=null",
        )


def task_exam(
    model: Any,
    encoder: Encoder,
    samples: Sequence[Sample],
    *,
    loss: Callable[[], float],
    max_new_tokens: int,
    prepared: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Callable[[], Exam]:
    """A function that answers the samples greedily and measures their primary metrics and loss.

    `model` is the bare one, with its adapter and without wrappers of a process group; `prepared`
    is entered around each exam, to put a tower back that has left the device. Samples are seen as
    they are served: at the contract's image size, at which `loss` is to be measured too. An answer
    that cannot be measured counts 0.
    """
    names = dict.fromkeys(task_of(sample.task).primary_metric for sample in samples)

    def exam() -> Exam:
        with unnoticed(model), prepared():
            engine = HfEngine(model, encoder, "hf:training")
            texts = [
                engine.complete(sample.prompt, max_new_tokens=max_new_tokens).text
                for sample in samples
            ]
            measured = loss()
        return Exam(" and ".join(names), len(samples), _mean_metric(samples, texts), measured)

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
