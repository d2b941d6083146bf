"""How long each sample is at any image size, by arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.images import ImageGrid, upright_size


@dataclass(frozen=True)
class SampleLength:
    """What decides one sample's length."""

    texts: int
    """Tokens outside its images."""

    images: tuple[tuple[int, int], ...]
    """Height and width of each image, upright, in pixels."""


class SampleLengths:
    """Tokens of every training sample, at the image size of any phase."""

    def __init__(self, lengths: Sequence[SampleLength]) -> None:
        self._lengths = tuple(lengths)

    @classmethod
    def measure(cls, samples: Sequence[Sample], encoder: Encoder) -> SampleLengths:
        """Tokenize every sample once; of its images only the headers are read."""
        return cls([_measure(sample, encoder) for sample in samples])

    def __len__(self) -> int:
        return len(self._lengths)

    def tokens(self, index: int, grid: ImageGrid) -> int:
        """Text and image tokens of a sample."""
        return self._lengths[index].texts + self.image_tokens(index, grid)

    def image_tokens(self, index: int, grid: ImageGrid) -> int:
        """Image tokens of a sample."""
        return sum(grid.tokens(*size) for size in self._lengths[index].images)

    def aspect(self, index: int) -> float:
        """Height by width of a sample's largest image; 1 without one."""
        return self._aspects[index]

    @cached_property
    def _aspects(self) -> tuple[float, ...]:
        largest = (
            max(each.images, key=lambda size: size[0] * size[1], default=(1, 1))
            for each in self._lengths
        )
        return tuple(height / width for height, width in largest)


def _measure(sample: Sample, encoder: Encoder) -> SampleLength:
    sizes = tuple(upright_size(image) for image in sample.images)
    grid = encoder.contract.grid
    counted = encoder.token_count(sample.messages, grid)
    return SampleLength(counted - sum(grid.tokens(*size) for size in sizes), sizes)
