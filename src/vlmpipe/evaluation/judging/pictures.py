"""Images as text: data URIs of bounded size."""

from __future__ import annotations

import base64
import io

from PIL import Image

from vlmpipe.encoding.images import to_rgb


def png_data_uri(image: Image.Image, max_side: int) -> str:
    """The image as PNG, no side longer than `max_side` pixels."""
    return _uri("png", _encoded(bounded(image, max_side), "PNG", optimize=True))


def small_data_uri(image: Image.Image, max_side: int) -> str:
    """As PNG, or as JPEG where that is less than half: a photograph, not a drawing."""
    small = bounded(image, max_side)
    drawing = _encoded(small, "PNG", optimize=True)
    photograph = _encoded(small, "JPEG", quality=88, optimize=True)
    if 2 * len(photograph) < len(drawing):
        return _uri("jpeg", photograph)
    return _uri("png", drawing)


def bounded(image: Image.Image, max_side: int) -> Image.Image:
    """A copy in RGB, made smaller where a side is longer than `max_side`."""
    small = to_rgb(image).copy()
    small.thumbnail((max_side, max_side))
    return small


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
