"""Images that stay on the disk until somebody looks at their pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from vlmpipe.data.images import decode_png


class StoredImage(Image.Image):
    """An RGB image of known size; its bytes are fetched and decoded when its pixels are needed.

    Encoded as `encode_png` wrote it. A copy, and what is sent to another process, holds the pixels.
    """

    _fetch: Callable[[], bytes] | None = None

    def __init__(self, height: int, width: int, fetch: Callable[[], bytes]) -> None:
        super().__init__()
        self._mode = "RGB"
        self._size = (width, height)
        self._fetch = fetch

    def load(self) -> Any:
        """Fetch and decode, once.

        Raises:
            OSError: for bytes that are no whole image.
        """
        if self._fetch is not None:
            image = decode_png(self._fetch())
            image.load()
            if image.size != self._size:
                raise OSError(f"{image.size} pixels are stored, where {self._size} were announced")
            self.im = image.im
            self._fetch = None
        return super().load()
