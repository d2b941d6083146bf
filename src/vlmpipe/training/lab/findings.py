"""What a failed overfit says of the training, read from what was measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from vlmpipe.config.train import TrainConfig
from vlmpipe.training.lab.steps import Step

NO_GRADIENT = 1e-9
"""A gradient norm below this is that of a loss that reaches no trained weight."""

FLAT_FALL = 0.1
"""Share of the first loss; who falls by less in all steps has not begun to learn."""

EXPLODED = 1.5
"""Times the first loss."""

STILL_FALLING = 0.1
"""Share by which the loss must have fallen over the last half of the steps."""

RESTLESS_SHARE, RESTLESS_RISE = 0.2, 0.05
"""The same samples in each step, without dropout: so many steps that raise the loss by so much are
those of a rate that jumps over the minimum."""

JUMP_RISE, JUMP_NORM = 0.1, 10.0
"""One step is enough where the loss rises by so much and the gradient is so many times the first:
an adapter thrown that far often stays there, with a loss that stands still."""

TOO_HIGH = "the learning rate is too high"

SAME_LOSS = 1e-3
"""Relative; two losses nearer than that are of a model that does not see what differs."""


@dataclass(frozen=True)
class Finding:
    """One cause, with what speaks for it and what to change."""

    cause: str
    evidence: str
    remedies: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """All that was measured."""

    steps: Sequence[Step]
    limit: float
    """Mean loss a token that was to be reached, nats."""

    loss: float
    """After training, without dropout."""

    blank_loss: float | None = None
    """The same with white images; None without images."""

    mask_faults: Sequence[str] = ()
    conflicts: Sequence[str] = ()
    wrong_answers: Sequence[str] = field(default=())


def find_causes(found: Evidence, config: TrainConfig) -> list[Finding]:
    """The causes that the evidence speaks for, the most basic first; never empty."""
    rate = config.learning_rate
    causes = [*_of_samples(found)]
    # An adapter that was thrown far sees no images either, nor does one that has not moved.
    causes += _of_rate(found, rate) or _of_images(found)
    # What cannot be learned is never at rest.
    if not causes:
        restless = _restless(found, rate)
        causes += [restless] if restless else _of_slowness(found, rate)
    if not causes:
        causes.append(
            _of_answers(found) if found.loss <= found.limit else _of_capacity(found, config)
        )
    return causes


def _of_samples(found: Evidence) -> Iterator[Finding]:
    if found.mask_faults:
        yield Finding(
            "the wrong tokens are supervised",
            "; ".join(found.mask_faults),
            (
                "supervise the answers: train.loss.scope=assistant_after_image",
                "or, for answers before the first image: train.loss.scope=assistant",
            ),
        )
    if found.conflicts:
        yield Finding(
            "samples contradict each other",
            "; ".join(found.conflicts),
            (
                "keep one of them in the files of data.sources",
                "or tell them apart in the prompt, then prepare the data again: vlmpipe setup",
            ),
        )


def _of_images(found: Evidence) -> list[Finding]:
    blank = found.blank_loss
    if blank is None or found.loss <= found.limit:
        return []
    if abs(blank - found.loss) > SAME_LOSS * found.loss:
        return []
    return [
        Finding(
            "the images are not seen",
            f"the loss is {found.loss:.5g} with the images and {blank:.5g} with white ones in their"
            " place",
            (
                "see whether the images are legible at this size: model.max_pixels, and max_size in"
                " train.curriculum",
                "see whether the base model reads them at all: vlmpipe evaluate --engines hf:base",
                "or train what hands them to the language model: train.unfreeze='[\"merger\"]'",
            ),
        )
    ]


def _of_rate(found: Evidence, rate: float) -> list[Finding]:
    """NaN, explosion, a jump, no gradient, no movement: at most one."""
    for judge in (_no_number, _exploded, _jumped, _no_gradient, _flat):
        finding = judge(found, rate)
        if finding is not None:
            return [finding]
    return []


def _no_number(found: Evidence, rate: float) -> Finding | None:
    bad = next((s for s in found.steps if not math.isfinite(s.loss + s.grad_norm)), None)
    if bad is None:
        return None
    before = [step for step in found.steps if step.number < bad.number]
    course = (
        f" after {before[0].loss:.4g} at step 1 and {before[-1].loss:.4g} last" if before else ""
    )
    at_once = bad.number == 1
    return Finding(
        "numbers overflow before anything is learned" if at_once else TOO_HIGH,
        f"at step {bad.number} the loss is {bad.loss} and the gradient's norm {bad.grad_norm},"
        f"{course or ' at the first step'}",
        ("train in a wider precision: model.dtype=float32",)
        if at_once
        else (_lower(rate), "or clip gradients sooner: train.max_grad_norm=0.3"),
    )


def _exploded(found: Evidence, rate: float) -> Finding | None:
    first, last = _ends(found.steps)
    if last <= EXPLODED * first:
        return None
    lowest = min(found.steps, key=lambda step: step.loss)
    return Finding(
        TOO_HIGH,
        f"the loss rose from {first:.4g} to {last:.4g}; it was lowest, {lowest.loss:.4g}, at step"
        f" {lowest.number}, and the gradient's norm went from {found.steps[0].grad_norm:.2g} to"
        f" {found.steps[-1].grad_norm:.2g}",
        (_lower(rate), _look()),
    )


def _no_gradient(found: Evidence, rate: float) -> Finding | None:
    most = max(step.grad_norm for step in found.steps)
    if most > NO_GRADIENT:
        return None
    return Finding(
        "no gradient reaches the trained weights",
        f"the gradient's norm was never above {most:.1g} in {len(found.steps)} steps",
        (
            "train all layers: train.lora.targets=all",
            "or supervise more: train.loss.scope=assistant",
        ),
    )


def _flat(found: Evidence, rate: float) -> Finding | None:
    first, last = _ends(found.steps)
    if first - last > FLAT_FALL * first or found.loss <= found.limit:
        return None
    norms = sorted(step.grad_norm for step in found.steps)
    needed = (first - found.limit) / max((first - last) / len(found.steps), 1e-12)
    reach = f"{needed:,.0f} steps" if needed < 1e7 else "without end"
    return Finding(
        "the learning rate is too low",
        f"the loss went from {first:.4g} to {last:.4g} in {len(found.steps)} steps at rate"
        f" {rate:g}; at that pace the limit of {found.limit:g} takes {reach}. There are gradients:"
        f" their norm was {norms[len(norms) // 2]:.2g} ({norms[0]:.2g} to {norms[-1]:.2g})",
        (f"raise it: train.learning_rate={min(rate * 10, 1):g}", _look()),
    )


def _jumped(found: Evidence, rate: float) -> Finding | None:
    first = found.steps[0].grad_norm
    for before, after in itertools.pairwise(found.steps):
        norm = max(before.grad_norm, after.grad_norm)
        risen = after.loss > (1 + JUMP_RISE) * before.loss
        if risen and norm > JUMP_NORM * first and found.loss > found.limit:
            return Finding(
                TOO_HIGH,
                f"each step sees the same samples, and yet at step {after.number} the loss went"
                f" from {before.loss:.4g} to {after.loss:.4g} and the gradient's norm to"
                f" {norm:.3g}, from {first:.3g} at first; it stands at {found.loss:.4g} now",
                (_lower(rate), _look()),
            )
    return None


def _restless(found: Evidence, rate: float) -> Finding | None:
    losses = [step.loss for step in found.steps]
    if len(losses) < 6 or found.loss <= found.limit:
        return None
    rises = [b / a - 1 for a, b in itertools.pairwise(losses) if b > (1 + RESTLESS_RISE) * a]
    if len(rises) < RESTLESS_SHARE * (len(losses) - 1):
        return None
    return Finding(
        TOO_HIGH,
        f"each step sees the same samples, and yet {len(rises)} of {len(losses) - 1} raised the"
        f" loss by more than {RESTLESS_RISE:.0%}, the worst by {max(rises):.0%}",
        (_lower(rate), _look()),
    )


def _of_slowness(found: Evidence, rate: float) -> list[Finding]:
    """Too few steps, where the loss would come there if it went on so."""
    losses = [step.loss for step in found.steps[len(found.steps) // 2 :]]
    if len(losses) < 4 or found.loss <= found.limit:
        return []
    slope, start = np.polyfit(np.arange(len(losses)), np.log(np.maximum(losses, 1e-12)), 1)
    fallen = 1 - math.exp(slope * (len(losses) - 1))
    if fallen < STILL_FALLING:
        return []
    reached = start + slope * (len(losses) - 1)
    more = math.ceil((math.log(found.limit) - reached) / slope)
    total = found.steps[-1].number + max(more, 1)
    return [
        Finding(
            "too few steps",
            f"the loss still falls: by {fallen:.0%} over the last {len(losses)} steps, to"
            f" {found.loss:.4g}; going on so it is at {found.limit:g} after about {total} steps",
            (
                f"take more: --steps {math.ceil(1.25 * total / 10) * 10}",
                f"or larger ones: train.learning_rate={min(rate * 3, 1):g}",
            ),
        )
    ]


def _of_answers(found: Evidence) -> Finding:
    return Finding(
        "the loss is near zero, and the model's own answers are not the references",
        "; ".join(found.wrong_answers) or "no answer was asked",
        (
            "a few tokens are still wrong, and an answer goes astray at the first: --limit"
            f" {found.limit / 10:g}",
            "supervise whole answers: train.loss.scope=assistant",
        ),
    )


def _of_capacity(found: Evidence, config: TrainConfig) -> Finding:
    half = found.steps[len(found.steps) // 2 :]
    seen = (
        f", the images are seen (white ones: {found.blank_loss:.4g})"
        if found.blank_loss is not None
        else ""
    )
    lora = config.lora
    remedies = (
        ()
        if config.method == "full"
        else (
            f"raise the rank: train.lora.r={min(2 * lora.r, 1024)}"
            f" train.lora.alpha={min(2 * lora.alpha, 4096)}",
            *(("adapt every layer: train.lora.targets=all",) if lora.targets != "all" else ()),
        )
    )
    return Finding(
        "what is trained cannot hold these samples",
        f"the loss stands still above the limit: {half[0].loss:.4g} at step {half[0].number},"
        f" {found.loss:.4g} at the end; it is supervised right, no two samples contradict each"
        f" other{seen}; rank {lora.r} on {lora.targets} layers",
        (*remedies, "or go at another pace: " + _look()),
    )


def _ends(steps: Sequence[Step]) -> tuple[float, float]:
    """The first loss, and the median of the last five."""
    losses = [step.loss for step in steps]
    return losses[0], float(np.median(losses[-5:]))


def _lower(rate: float) -> str:
    return f"lower it: train.learning_rate={rate / 10:g}"


def _look() -> str:
    return "see which rates do: vlmpipe lab lr-find with the same options"
