"""Images from files, decided to be usable or not before anything is trained on them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from vlmpipe.data.problems import SampleError
from vlmpipe.encoding.images import MAX_ASPECT_RATIO, to_rgb

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
MIN_SIDE = 2
"""Pixels; a line of one pixel's width is no picture."""


def load_image(path: Path, max_pixels: int) -> Image.Image:
    """The image upright and in RGB, transparent parts white, in its original size.

    Raises:
        SampleError: missing, empty, not an image, more pixels than `max_pixels` by its header,
            truncated or damaged, several pages, too thin.
    """
    _refuse_non_files(path)
    with _translated(), _open(path) as image:
        _refuse_sizes(image.size, max_pixels)
        _refuse_several_pages(image)
        image.load()
        return _upright_rgb(image)


def encode_png(image: Image.Image) -> bytes:
    """Lossless bytes, pixels only; light compression, for speed."""
    stream = BytesIO()
    image.save(stream, format="PNG", compress_level=1, icc_profile=None)
    return stream.getvalue()


def decode_png(data: bytes) -> Image.Image:
    """An image that `encode_png` wrote, its pixels decoded when they are first looked at.

    A split is gone through several times before a training for sizes and texts alone.
    """
    from PIL import Image

    with _large_images_allowed():
        image = Image.open(BytesIO(data), formats=("PNG",))
        return image if image.mode == "RGB" else image.convert("RGB")


def _refuse_non_files(path: Path) -> None:
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as exc:
        raise SampleError("missing") from exc
    if not path.is_file():
        raise SampleError("not a file")
    if not size:
        raise SampleError("empty (0 bytes)")


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """The image with only its header read."""
    from PIL import Image

    with _large_images_allowed(), Image.open(path, formats=FORMATS) as image:
        yield image


@contextmanager
def _large_images_allowed() -> Iterator[None]:
    """Quiet about images between Pillow's warning and its error: our own limit decides there."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


@contextmanager
def _translated() -> Iterator[None]:
    """Pillow's decoders raise nearly everything on damaged files; each means a bad image."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except (SampleError, MemoryError):
        raise
    except UnidentifiedImageError as exc:
        names = ", ".join(FORMATS)
        raise SampleError(f"not an image of a known format ({names})") from exc
    except Image.DecompressionBombError as exc:
        claimed = re.search(r"\d+", str(exc))
        pixels = f"{int(claimed[0]):,}" if claimed else "far too many"
        raise SampleError(f"claims {pixels} pixels, above data.max_image_pixels") from exc
    except Exception as exc:
        raise SampleError(f"damaged: {str(exc) or type(exc).__name__}") from exc


def _refuse_sizes(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise SampleError(
            f"claims {width}x{height} = {width * height:,} pixels,"
            f" above data.max_image_pixels {max_pixels:,}"
        )
    if min(size) < MIN_SIDE:
        raise SampleError(f"{width}x{height} pixels: a side under {MIN_SIDE}")
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise SampleError(f"{width}x{height} pixels: aspect ratio above {MAX_ASPECT_RATIO}")


def _refuse_several_pages(image: Image.Image) -> None:
    # A phone's JPEG may carry a preview or depth map as a second frame: that is no page.
    if image.format in ("TIFF", "WEBP", "PNG") and getattr(image, "n_frames", 1) > 1:
        raise SampleError(
            f"holds {getattr(image, 'n_frames', 0)} pages or frames; give each as an image"
        )


def _upright_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    if image.mode in ("F", "I"):
        raise SampleError(f"pixels of mode {image.mode} have no range; save it with 8 bits")
    upright = ImageOps.exif_transpose(image)
    return to_rgb(_eight_bit(upright) if upright.mode.startswith("I;16") else upright)


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey in 8 bits. Pillow's own conversion clips, which turns such a scan white."""
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
