"""Samples as rows of a table on the disk, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from vlmpipe.data.images import decode_png, encode_png
from vlmpipe.data.stored_images import StoredImage
from vlmpipe.encoding.conversation import Message, Part, Sample

ROWS_PER_GROUP = 16
"""Rows that are read from the disk together: one sample's pictures cost at most so many."""


def features() -> Any:
    """Columns, as `datasets` describes them.

    No column is named image or images: TRL takes those for its own image handling.
    """
    from datasets import Features, List, Value

    return Features(
        {
            "id": Value("string"),
            "task": Value("string"),
            "difficulty": Value("float64"),
            "weight": Value("float64"),
            "origin": Value("string"),
            "messages": Value("string"),
            "sizes": List(List(Value("int32"))),
            "pictures": List(Value("binary")),
        }
    )


def to_row(sample: Sample, weight: float) -> dict[str, Any]:
    """Messages as JSON text in which images are numbers into `pictures` (PNG files), and into
    `sizes`, their heights and widths.
    """
    images = sample.images
    places = iter(range(len(images)))
    messages = [
        {"role": message.role, "content": [_pack(part, places) for part in message.parts]}
        for message in sample.messages
    ]
    return {
        "id": sample.id,
        "task": sample.task,
        "difficulty": sample.difficulty,
        "weight": weight,
        # Without its folder: the same samples from elsewhere are the same data.
        "origin": Path(sample.origin).name,
        "messages": json.dumps(messages, ensure_ascii=False),
        "sizes": [[image.height, image.width] for image in images],
        "pictures": [encode_png(image) for image in images],
    }


def from_row(row: Mapping[str, Any], picture: Callable[[int], bytes]) -> Sample:
    """The sample that `to_row` packed; `picture` gives one of its `pictures` when it is needed.

    Data of vlmpipe 0.3 and before hold no `sizes`: their pictures are opened at once.
    """
    images = [
        StoredImage(height, width, partial(picture, place))
        for place, (height, width) in enumerate(row.get("sizes") or ())
    ]

    def unpacked(part: Mapping[str, Any]) -> Part:
        if part["type"] == "text":
            return str(part["text"])
        place = int(part["image"])
        return images[place] if images else decode_png(picture(place))

    return Sample(
        id=row["id"],
        messages=tuple(
            Message(turn["role"], tuple(map(unpacked, turn["content"])))
            for turn in json.loads(row["messages"])
        ),
        task=row["task"],
        difficulty=row["difficulty"],
        origin=row["origin"],
    )


def write_parquet(rows: Any, path: Path) -> None:
    """A `datasets.Dataset` into a file that is read a few rows at a time."""
    with _quiet_bars():
        rows.to_parquet(str(path), batch_size=ROWS_PER_GROUP)


@contextmanager
def _quiet_bars() -> Iterator[None]:
    """No progress bars of the library's own."""
    from datasets.utils import logging as datasets_logging

    shown = datasets_logging.is_progress_bar_enabled()
    datasets_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            datasets_logging.enable_progress_bar()


def _pack(part: Part, places: Iterator[int]) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image", "image": next(places)}
