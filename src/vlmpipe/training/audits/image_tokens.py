"""Proof that each image has as many tokens as the tower makes of it, in every sample and phase."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoded, Encoder
from vlmpipe.encoding.images import ImageGrid, upright_size
from vlmpipe.errors import StageError
from vlmpipe.training.batching.lengths import SampleLengths
from vlmpipe.training.vision_cache.features import compute_features

ENCODED_SAMPLES = 4
"""Of each phase's grid: with all their pixels, spread over the samples."""


@dataclass(frozen=True)
class ImageTokenAudit:
    """What was compared."""

    samples: int
    """Of the run, each at every grid, by arithmetic from the sizes of its images."""

    images: int
    encoded: int
    """Encodings with all their pixels that were held against the arithmetic."""

    most: int
    """Image tokens of the sample that has most."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def audit_image_tokens(
    samples: Sequence[Sample],
    lengths: SampleLengths,
    encoder: Encoder,
    grids: Sequence[ImageGrid],
) -> ImageTokenAudit:
    """Hold `<|image_pad|>` tokens against patches, for all samples at every grid.

    Every sample is tokenized once, without its pixels; a few are encoded whole at each grid.

    Raises:
        StageError: naming the sample and where it came from.
    """
    images = most = encoded = 0
    whole = set(_spread(len(samples), ENCODED_SAMPLES))
    for index, sample in enumerate(samples):
        sized = encoder.encode_sample(sample.messages, grid=grids[0], pixels=False)
        _refuse(sample, _token_fault(sized, encoder))
        _refuse(sample, _length_fault(sized, lengths.tokens(index, grids[0])))
        for grid in grids:
            _refuse(sample, _arithmetic_fault(sample, lengths.image_tokens(index, grid), grid))
            most = max(most, lengths.image_tokens(index, grid))
            if index in whole:
                _refuse(sample, _encoded_fault(sample, encoder, grid, lengths.tokens(index, grid)))
                encoded += 1
        images += len(sample.images)
    return ImageTokenAudit(len(samples), images, encoded, most)


def audit_tower(model: Any, sample: Sample, encoder: Encoder, grid: ImageGrid) -> int:
    """Run the tower on a sample's first image: the rows that it gives, which are its tokens.

    Raises:
        StageError: when the rows are not as many as the image's tokens, or are no numbers.
    """
    import torch

    encoded = encoder.encode_sample(sample.messages, grid=grid)
    if encoded.image_grid_thw is None or encoded.pixel_values is None:
        raise ValueError(f"sample {sample.id} has no image")
    first = torch.from_numpy(encoded.image_grid_thw[:1])
    pixels = torch.from_numpy(encoded.pixel_values[: int(first.prod())])
    features = compute_features(model, pixels, first)
    tokens = grid.tokens(*upright_size(sample.images[0]))
    for rows in (features.tokens, *features.deepstack):
        if len(rows) != tokens:
            _refuse(sample, f"the tower makes {len(rows)} features of an image of {tokens} tokens")
        if not bool(torch.isfinite(rows).all()):
            _refuse(sample, "the tower's features of its first image are not all finite numbers")
    return tokens


def _spread(count: int, wanted: int) -> Iterator[int]:
    """Places spread over `count`, first and last among them."""
    last = count - 1
    return (round(place * last / max(wanted - 1, 1)) for place in range(wanted) if count)


def _token_fault(encoded: Encoded, encoder: Encoder) -> str | None:
    tokens = encoded.input_ids.count(encoder.image_token_id)
    merged = encoder.contract.merge_size**2
    grids = [] if encoded.image_grid_thw is None else encoded.image_grid_thw.tolist()
    wanted = sum(t * h * w for t, h, w in grids) / merged
    if tokens == wanted:
        return None
    return f"{tokens} image tokens, where its {len(grids)} images have {wanted:g} features"


def _length_fault(encoded: Encoded, tokens: int) -> str | None:
    if len(encoded.input_ids) == tokens:
        return None
    return f"{len(encoded.input_ids)} tokens, where {tokens} were planned for it"


def _arithmetic_fault(sample: Sample, tokens: int, grid: ImageGrid) -> str | None:
    patches = [grid.patches(*upright_size(image)) for image in sample.images]
    merge = grid.merge_size
    if any(h % merge or w % merge for _, h, w in patches):
        return f"an image of {patches} patches, not whole multiples of {merge}"
    wanted = sum(t * h * w for t, h, w in patches) // merge**2
    if tokens == wanted:
        return None
    return f"{tokens} image tokens planned, where its patches make {wanted} features"


def _encoded_fault(sample: Sample, encoder: Encoder, grid: ImageGrid, tokens: int) -> str | None:
    encoded = encoder.encode_sample(sample.messages, grid=grid)
    return _token_fault(encoded, encoder) or _length_fault(encoded, tokens)


def _refuse(sample: Sample, fault: str | None) -> None:
    if fault:
        raise StageError(
            f"sample {sample.id} ({sample.origin}) does not match its images: {fault}",
            "this is a fault of the encoding or of a library version, not of the data;"
            " `vlmpipe check` names known-bad versions",
        )
