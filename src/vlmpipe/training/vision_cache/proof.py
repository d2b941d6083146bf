"""Proof before a phase: what the cache hands out is what the tower would give, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmpipe.encoding.conversation import Message
from vlmpipe.errors import StageError
from vlmpipe.training.vision_cache.cache import VisionCache
from vlmpipe.training.vision_cache.features import (
    ImageFeatures,
    as_encoder_outputs,
    autocast,
    collate_features,
)
from vlmpipe.training.vision_cache.jobs import Job
from vlmpipe.training.vision_cache.tower import family_in

if TYPE_CHECKING:
    import torch

PROVEN_IMAGES = 4
COMPARED_LOGITS = 16
"""Last positions of the sequence; each has seen all image tokens."""


@dataclass(frozen=True)
class CacheProof:
    """What was compared."""

    images: int
    image_tokens: int
    logits: int


def prove_cached_equals_live(
    cache: VisionCache, count: int = PROVEN_IMAGES, *, with_logits: bool = True
) -> CacheProof:
    """Hold a few images of the last fill against the live tower: smallest, largest, some between.

    Then the model's logits over the smallest one's features against those over its pixels; not of a
    model that is spread over processes, whose forward passes all of them must make alike.

    Raises:
        StageError: when a value differs, naming the sample and the largest difference.
    """
    jobs = spread(cache.filled, count)
    if not jobs:
        return CacheProof(0, 0, 0)
    with cache.tower.present():
        for job in jobs:
            _refuse_difference(cache, job, _from_store(cache, job), cache.computed(job))
        logits = _prove_logits(cache, jobs[0]) if with_logits else 0
    return CacheProof(len(jobs), sum(job.key.tokens for job in jobs), logits)


def spread(jobs: Sequence[Job], count: int) -> list[Job]:
    """Up to `count` jobs from the fewest image tokens to the most, evenly between."""
    ordered = sorted(jobs, key=lambda job: job.key.tokens)
    last = len(ordered) - 1
    places = {round(last * step / max(count - 1, 1)) for step in range(count)} if ordered else ()
    return [ordered[place] for place in sorted(places)]


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float | None:
    """None where both are the same bit for bit; infinite where shapes or types differ.

    Zeros of either sign differ in bits and by 0; a NaN equals itself.
    """
    import torch

    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    flat = [each.contiguous().view(-1).view(torch.uint8) for each in (one, other)]
    if torch.equal(*flat):
        return None
    return float((one.float() - other.float()).abs().nan_to_num(float("inf")).max())


def _from_store(cache: VisionCache, job: Job) -> ImageFeatures:
    stored = cache.stored(job)
    if stored is None:
        raise StageError(
            f"the features of an image of sample {job.name} cannot be read back from {cache.place}",
            *_remedies(cache),
        )
    return stored


def _refuse_difference(
    cache: VisionCache, job: Job, stored: ImageFeatures, live: ImageFeatures
) -> None:
    pairs = [(stored.tokens, live.tokens), *zip(stored.deepstack, live.deepstack, strict=False)]
    found = [largest_difference(*pair) for pair in pairs]
    if len(stored.deepstack) != len(live.deepstack):
        found.append(float("inf"))
    differences = [each for each in found if each is not None]
    if differences:
        raise _not_equal(cache, job, "features", max(differences))


def _prove_logits(cache: VisionCache, job: Job) -> int:
    """Logits over a conversation of one image, by features and by pixels; how many positions.

    One image alone, because a live forward pass runs the tower over all images of a sample
    together, which may round otherwise.
    """
    import torch

    inputs = _inputs(cache, job)
    pixels = inputs.pop("pixel_values")
    tokens, levels = collate_features([_from_store(cache, job)])
    family, device = family_in(cache.model), cache.tower.device
    features = as_encoder_outputs(tokens, levels, inputs["image_grid_thw"], family)
    options = {"logits_to_keep": COMPARED_LOGITS, "use_cache": False}
    with _evaluating(cache.model), torch.no_grad(), autocast(device.type, cache.autocast_dtype):
        live = cache.model(**inputs, **options, pixel_values=pixels).logits
        cached = cache.model(**inputs, **options, mm_encoder_outputs={"image": features}).logits
    difference = largest_difference(cached, live)
    if difference is not None:
        raise _not_equal(cache, job, "logits", difference)
    return int(live.shape[1])


def _inputs(cache: VisionCache, job: Job) -> dict[str, torch.Tensor]:
    """A conversation of one image, encoded as a training sample is; batch of one."""
    import torch

    messages = (
        Message("user", (cache.image(job), "?")),
        Message("assistant", ("!" * COMPARED_LOGITS,)),
    )
    encoded = cache.encoder.encode_sample(messages, grid=job.grid, kernels=(job.kernel,))
    inputs = {
        "input_ids": torch.tensor([encoded.input_ids]),
        "mm_token_type_ids": torch.tensor([encoded.image_mask]),
        "image_grid_thw": torch.as_tensor(encoded.image_grid_thw),
        "pixel_values": torch.as_tensor(encoded.pixel_values),
    }
    return {name: value.to(cache.tower.device) for name, value in inputs.items()}


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout, which would make two passes differ."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _not_equal(cache: VisionCache, job: Job, what: str, difference: float) -> StageError:
    return StageError(
        f"the vision cache is not what the tower gives: {what} of sample {job.name} differ by up to"
        f" {difference:.3g}",
        *_remedies(cache),
    )


def _remedies(cache: VisionCache) -> tuple[str, ...]:
    off = "train without the cache: train.vision_cache=off"
    if cache.kind == "memory":
        return (off,)
    return (f"remove what was kept, and compute it anew: rm -r {cache.place}", f"or {off}")
