"""Proof at the start: samples in a packed row are what they are alone, and see no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from vlmpipe.encoding.encoder import IGNORED
from vlmpipe.errors import StageError

FP32_TOLERANCE = 1e-5
"""Relative, on a sample's loss: about ten times what another order of summation was seen to do."""

HALF_TOLERANCE = 2e-3
"""The same where some weights have 8 or 11 bits: half of what bf16 rounds one number by."""

NOISE_FACTOR = 4
"""A packed row may depart from samples alone by this many times what a padded batch, of which
nobody doubts that it is right, departs."""

ROUNDING = 1e-6
"""Relative to the largest logit, what nobody would call seeing."""

CHECKED_TOKENS = 64
"""Supervised tokens of each sample whose logits are made: all rows of a large vocabulary would
take gigabytes."""

Batch = Mapping[str, Any]
Logits = Callable[[dict[str, Any], Any], Any]
"""A batch without labels, and the numbers of K rows [K], to logits [B, K, vocabulary]."""


@dataclass(frozen=True)
class PackingProof:
    """What was compared, and by how much it differed."""

    samples: int
    tokens: int
    difference: float
    """Largest relative difference of a sample's loss, packed against alone."""

    tolerance: float
    crossing: float
    """Largest change of a sample's logits when the tokens of another in the row changed."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def prove_packing(
    model: Any,
    *,
    packed: Batch,
    padded: Batch,
    singles: Sequence[Batch],
    logits: Logits | None = None,
) -> PackingProof:
    """Hold the packed batch of a few samples against the same samples padded, and each alone.

    In evaluation mode, without gradients; autocast is off where all weights are fp32, and as the
    caller has it elsewhere. What padding changes is allowed too, several times over. That no sample
    sees another is tested apart, by changing one's tokens, at any precision as sharply. `logits` is
    for a model whose batches need preparing; by default it is called as it is.

    Raises:
        StageError: where a sample's loss is another in the row, or depends on its neighbours.
    """
    import torch

    compute = logits or _called(model)
    training = model.training
    model.eval()
    try:
        exact = all(parameter.dtype == torch.float32 for parameter in model.parameters())
        with torch.no_grad(), _without_autocast(model) if exact else nullcontext():
            floor = FP32_TOLERANCE if exact else HALF_TOLERANCE
            return _prove(compute, floor, packed, padded, singles)
    finally:
        model.train(training)


def _prove(
    compute: Logits, floor: float, packed: Batch, padded: Batch, singles: Sequence[Batch]
) -> PackingProof:
    checked = [_checked(batch) for batch in singles]
    rows = _in_packed_row(checked, packed, singles)
    alone = [float(_losses(compute, *each).sum()) for each in zip(singles, checked, strict=True)]
    together = [float(each.sum()) for each in _split(_losses(compute, packed, _cat(rows))[0], rows)]
    noise = _padding_noise(_losses(compute, padded, _cat(checked)), checked, alone)
    tolerance = max(floor, NOISE_FACTOR * noise)
    differences = [_relative(*each) for each in zip(together, alone, strict=True)]
    for number, difference in enumerate(differences):
        if not difference <= tolerance:  # NaN too
            raise _refusal(
                f"the loss of sample {number + 1} of {len(singles)} is {together[number]:.6f} in a"
                f" packed row and {alone[number]:.6f} alone: a relative difference of"
                f" {difference:.1e} where {tolerance:.1e} is allowed"
            )
    return PackingProof(
        samples=len(singles),
        tokens=sum(len(row) for row in rows),
        difference=max(differences),
        tolerance=tolerance,
        crossing=_largest_crossing(compute, packed, rows, singles),
    )


def _checked(single: Batch) -> Any:
    """[K]: rows whose logits foretell a supervised token, spread over the sample."""
    foretelling = (single["labels"][0, 1:] != IGNORED).nonzero().flatten()
    return foretelling[:: -(-len(foretelling) // CHECKED_TOKENS) or 1]


def _in_packed_row(checked: Sequence[Any], packed: Batch, singles: Sequence[Batch]) -> list[Any]:
    """Where the checked rows stand in the packed one.

    Raises:
        StageError: when the packed row is not these samples, one after the other.
    """
    import torch

    ids = [single["input_ids"] for single in singles]
    if not torch.equal(torch.cat(ids, dim=1), packed["input_ids"]):
        raise _refusal("the packed row does not hold the samples that were packed")
    starts = accumulate([each.shape[1] for each in ids], initial=0)
    return [rows + start for rows, start in zip(checked, starts, strict=False)]


def _losses(compute: Logits, batch: Batch, rows: Any) -> Any:
    """[B, K]: cross entropy at these rows, 0 where nothing is supervised."""
    from torch.nn.functional import cross_entropy

    inputs = dict(batch)
    labels = inputs.pop("labels")[:, rows + 1]
    values = compute(inputs, rows).float()
    return cross_entropy(
        values.transpose(1, 2), labels.to(values.device), ignore_index=IGNORED, reduction="none"
    )


def _padding_noise(losses: Any, checked: Sequence[Any], alone: Sequence[float]) -> float:
    """Largest relative difference that padding makes to a sample's loss."""
    own = [_split(row, checked)[number] for number, row in enumerate(losses)]
    return max(_relative(float(each.sum()), loss) for each, loss in zip(own, alone, strict=True))


def _largest_crossing(
    compute: Logits, packed: Batch, rows: Sequence[Any], singles: Sequence[Batch]
) -> float:
    """How far any sample's logits move when another's text is turned round.

    Raises:
        StageError: when they move more than in a repetition.
    """
    inputs = {key: value for key, value in packed.items() if key != "labels"}
    before = compute(inputs, _cat(rows))[0].float()
    repeated = compute(inputs, _cat(rows))[0].float()
    allowed = max(
        NOISE_FACTOR * float((repeated - before).abs().max()), ROUNDING * float(before.abs().max())
    )
    crossing = 0.0
    lengths = [single["input_ids"].shape[1] for single in singles]
    for changed, start in enumerate(accumulate(lengths[:-1], initial=0)):
        ids = _turned_round(packed, start, start + lengths[changed])
        after = compute({**inputs, "input_ids": ids}, _cat(rows))[0].float()
        moved = [float(each.abs().max()) for each in _split(after - before, rows)]
        if moved.pop(changed) <= allowed:
            raise _refusal(f"the logits of sample {changed + 1} do not depend on its text")
        crossing = max(crossing, *moved)
    if not crossing <= allowed:
        raise _refusal(
            "samples in a packed row see each other: with another's tokens changed, logits moved by"
            f" {crossing:.1e} where {allowed:.1e} is allowed"
        )
    return crossing


def _turned_round(packed: Batch, start: int, end: int) -> Any:
    """Ids with one sample's text reversed; image tokens stay, for images to go there."""
    ids = packed["input_ids"].clone()
    types = packed.get("mm_token_type_ids")
    places = range(start, end)
    text = [place for place in places if types is None or not types[0, place]]
    ids[0, text] = ids[0, text[::-1]]
    return ids


def _called(model: Any) -> Logits:
    """The model as it is, on its own device."""
    import torch

    device = next(model.parameters()).device

    def compute(inputs: dict[str, Any], rows: Any) -> Any:
        moved = {
            key: value.to(device) if isinstance(value, torch.Tensor) else value
            for key, value in inputs.items()
        }
        return model(**moved, use_cache=False, logits_to_keep=rows.to(device)).logits

    return compute


def _without_autocast(model: Any) -> AbstractContextManager[Any]:
    import torch

    return torch.autocast(next(model.parameters()).device.type, enabled=False)


def _split(values: Any, rows: Sequence[Any]) -> Any:
    return values.split([len(each) for each in rows])


def _cat(rows: Sequence[Any]) -> Any:
    import torch

    return torch.cat(list(rows))


def _relative(value: float, reference: float) -> float:
    return abs(value - reference) / max(abs(reference), 1e-6)


def _refusal(fault: str) -> StageError:
    return StageError(
        f"packing is not sound here: {fault}",
        "train on padded rows: train.packing=off",
        "or with another attention: model.attn_implementation=sdpa",
    )
