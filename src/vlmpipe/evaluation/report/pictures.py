"""Pictures of samples as `data:` addresses, small enough for a page that holds many."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlmpipe.evaluation.published import PublishedStage
from vlmpipe.evaluation.report.budget import Budget

if TYPE_CHECKING:
    from PIL import Image

SIDE = 800
"""Longest side, pixels."""

PER_SAMPLE = 3
SPLITS = ("train", "heldout")
PHOTO_BYTES = 120_000
"""A PNG above this is a photograph or a scan, which JPEG holds in a fraction."""

Key = tuple[str, str]


class Pictures:
    """Pictures of any sample of a run: those that validate laid aside, else from the data."""

    def __init__(
        self, stages: Mapping[str, PublishedStage], results: Mapping[str, Any], budget: Budget
    ) -> None:
        """Look where they are; nothing is decoded yet."""
        self._validate = stages.get("validate")
        self._setup = stages.get("setup")
        self._budget = budget
        self._laid_aside = _laid_aside(results)
        self._places: dict[str, dict[str, int]] = {}

    def of(self, key: Key) -> list[str]:
        """`data:` addresses of the first pictures of a sample, as many as the page has room for."""
        addresses = []
        for image in self._images(key):
            address = address_of(image)
            if self._budget.take(len(address)):
                addresses.append(address)
        return addresses

    def _images(self, key: Key) -> Iterator[Image.Image]:
        from PIL import Image

        names = self._laid_aside.get(key)
        if names is not None and self._validate is not None:
            for name in names[:PER_SAMPLE]:
                with Image.open(self._validate.folder / name) as image:
                    yield image.convert("RGB")
            return
        yield from self._prepared(key)

    def _prepared(self, key: Key) -> Iterator[Image.Image]:
        """From the parquet files of setup; none where they are gone or never had the sample."""
        from vlmpipe.data.store import load_split
        from vlmpipe.encoding.images import to_rgb
        from vlmpipe.errors import ArtifactError

        split, sample = key
        if split not in SPLITS or self._setup is None:
            return
        try:
            samples = load_split(
                self._setup.folder / "data", "train" if split == "train" else "heldout"
            )
        except ArtifactError:
            return
        if split not in self._places:
            ids = samples.column("id")
            self._places[split] = {name: place for place, name in enumerate(ids)}
        place = self._places[split].get(sample)
        if place is not None:
            for image in samples[place].images[:PER_SAMPLE]:
                yield to_rgb(image)


def address_of(image: Image.Image) -> str:
    """A `data:` address of a picture of 800 pixels at most; PNG, JPEG where that is too large."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    kind, content = "png", _encoded(small, "PNG", optimize=True)
    if len(content) > PHOTO_BYTES:
        kind, content = "jpeg", _encoded(small, "JPEG", quality=80)
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _laid_aside(results: Mapping[str, Any]) -> dict[Key, Sequence[str]]:
    return {
        (str(each["split"]), str(each["sample"])): each["pictures"]
        for each in results.get("gallery", [])
    }
