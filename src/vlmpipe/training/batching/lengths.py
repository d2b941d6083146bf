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

    answer: int = 0
    """Tokens of its last answer."""


class SampleLengths:
    """Tokens of every training sample, at the image size of any phase."""

    def __init__(self, lengths: Sequence[SampleLength]) -> None:
        self._lengths = tuple(lengths)

    @classmethod
    def measure(cls, samples: Sequence[Sample], encoder: Encoder) -> SampleLengths:
        """Read and tokenize every sample once, one at a time; no image is decoded."""
        return cls([_measure(sample, encoder) for sample in samples])

    def __len__(self) -> int:
        return len(self._lengths)

    def tokens(self, index: int, grid: ImageGrid) -> int:
        """Text and image tokens of a sample."""
        return self._lengths[index].texts + self.image_tokens(index, grid)

    def image_tokens(self, index: int, grid: ImageGrid) -> int:
        """Image tokens of a sample."""
        return sum(grid.tokens(*size) for size in self._lengths[index].images)

    def longest(self, grid: ImageGrid) -> int:
        """Tokens of the longest sample; 0 without samples."""
        return max((self.tokens(index, grid) for index in range(len(self))), default=0)

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest last answer; 0 without samples."""
        return max((each.answer for each in self._lengths), default=0)

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
    texts, answer = encoder.text_counts(sample.messages)
    return SampleLength(texts, tuple(upright_size(image) for image in sample.images), answer)
