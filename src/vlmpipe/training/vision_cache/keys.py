"""Which picture, on which grid, by which kernel: the name under which features are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image, ImageOps

from vlmpipe.config.train import ResizeKernel
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.images import ImageGrid, to_rgb, upright_size


@runtime_checkable
class StoredPictures(Protocol):
    """Samples that can hand out their images as they are stored."""

    def pictures(self, index: int) -> list[bytes]:
        """A sample's images in order, encoded."""


@dataclass(frozen=True)
class Picture:
    """An image's content."""

    digest: bytes
    """32 bytes; equal ones have equal pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class FeatureKey:
    """What features are found by within a namespace."""

    digest: bytes
    """32 bytes."""

    tokens: int
    """Image tokens."""


def pictures_of(
    samples: Sequence[Sample], index: int, images: Sequence[Image.Image]
) -> list[Picture]:
    """The images of sample number `index`, in order.

    By their encoded bytes where the samples can hand them out (3 ms for a page of 4 megapixels),
    else by their decoded pixels (70 ms with the decoding). The same image gets two names so, and
    its features are computed twice at worst.
    """
    if not isinstance(samples, StoredPictures):
        return [picture_of(image) for image in images]
    stored = samples.pictures(index)
    return [
        Picture(hashlib.sha256(b"encoded\n" + data).digest(), *upright_size(image))
        for data, image in zip(stored, images, strict=True)
    ]


def picture_of(image: Image.Image) -> Picture:
    """By the pixels that the one resize would start from: upright, in RGB, on white.

    Decodes an image that was only opened so far, so that it cannot matter whether it was.
    """
    upright = to_rgb(ImageOps.exif_transpose(image))
    digest = hashlib.sha256(f"pixels {upright.width}x{upright.height}\n".encode())
    digest.update(upright.tobytes())
    return Picture(digest.digest(), upright.height, upright.width)


def feature_key(picture: Picture, grid: ImageGrid, kernel: ResizeKernel) -> FeatureKey:
    """The key of a picture prepared for a grid.

    An image that is on its grid already is not resized, by whatever kernel.
    """
    rows, columns = grid.target_size(picture.height, picture.width)
    used = "none" if (rows, columns) == (picture.height, picture.width) else kernel
    digest = hashlib.sha256(picture.digest)
    digest.update(f"{rows}x{columns} {used}".encode())
    return FeatureKey(digest.digest(), rows * columns // grid.factor**2)
