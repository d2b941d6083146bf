"""Samples as rows of a table on the disk, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmpipe.data.images import decode_png, encode_png
from vlmpipe.encoding.conversation import Message, Part, Sample

ROWS_PER_GROUP = 16
"""Rows that are read from the disk together: one sample costs at most so many."""


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
            "pictures": List(Value("binary")),
        }
    )


def to_row(sample: Sample, weight: float) -> dict[str, Any]:
    """Messages as JSON text in which images are numbers into `pictures` (PNG files)."""
    pictures: list[bytes] = []
    messages = [
        {"role": message.role, "content": [_pack(part, pictures) for part in message.parts]}
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
        "pictures": pictures,
    }


def from_row(row: Mapping[str, Any]) -> Sample:
    """The sample that `to_row` packed, images decoded."""
    pictures = row["pictures"]
    return Sample(
        id=row["id"],
        messages=tuple(
            Message(turn["role"], tuple(_unpack(part, pictures) for part in turn["content"]))
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


def _pack(part: Part, pictures: list[bytes]) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    pictures.append(encode_png(part))
    return {"type": "image", "image": len(pictures) - 1}


def _unpack(part: Mapping[str, Any], pictures: list[bytes]) -> Part:
    if part["type"] == "text":
        return str(part["text"])
    return decode_png(pictures[part["image"]])
