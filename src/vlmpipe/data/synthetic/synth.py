"""Samples of one task written to a folder, the same bytes however many processes write them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from vlmpipe.data.images import encode_png
from vlmpipe.data.messages import numbered_lines
from vlmpipe.data.synthetic.degradations import scanned
from vlmpipe.data.synthetic.folder import IMAGES, LINES, claimed, fill, refuse_changed, resume
from vlmpipe.data.synthetic.pool import in_order
from vlmpipe.data.synthetic.recipe import Recipe
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.pipeline.events import Reporter
from vlmpipe.pipeline.files import write_bytes
from vlmpipe.tasks import task_named


@dataclass(frozen=True)
class FolderFacts:
    """What lies in a finished folder."""

    samples: int
    new: int
    """Of them, written this time."""

    different: int
    """Samples that no earlier one is like in text: the same answer may stand in two pictures."""

    images: int
    image_bytes: int
    difficulty: tuple[float, float, float]
    """Smallest, mean, largest, by the task's own measure."""


def synthesise(recipe: Recipe, folder: Path, workers: int, reporter: Reporter) -> FolderFacts:
    """Write `samples.jsonl` and its images, or what is missing of them.

    Raises:
        ConfigError: for a folder that is not for this recipe, or cannot be written.
        LockError: for one that another process is filling.
        StageError: for a full disk, or a worker that was killed.
    """
    with claimed(folder, recipe):
        if (folder / LINES).exists():
            refuse_changed(folder, recipe)
            new = 0
        else:
            new = _fill(recipe, folder, workers, reporter)
        return _facts(folder, new)


def _fill(recipe: Recipe, folder: Path, workers: int, reporter: Reporter) -> int:
    present = resume(folder)
    if present:
        reporter.note(f"{present} of {recipe.n} samples are there already")
    work = partial(write_sample, recipe, folder)
    needed = max(1, min(workers, recipe.n - present))
    with closing(in_order(work, range(present, recipe.n), needed)) as lines:
        fill(folder, _counted(lines, present, recipe, reporter))
    reporter.progress_done()
    return recipe.n - present


def _counted(
    lines: Iterable[bytes], present: int, recipe: Recipe, reporter: Reporter
) -> Iterator[bytes]:
    """The same lines, reported when they are written."""
    for done, line in enumerate(lines, start=present + 1):
        yield line
        reporter.progress(f"drawing {recipe.task}", done, recipe.n)


def write_sample(recipe: Recipe, folder: Path, index: int) -> bytes:
    """Write the images of sample number `index`; its line, in the `messages` format."""
    task = task_named(recipe.task)
    drawn = task.generate(index, recipe.seed, recipe.difficulty, recipe.languages)
    sample = scanned(drawn, recipe.seed, recipe.scan)
    names = _write_images(sample, folder, index)
    record = {
        "id": sample.id,
        "task": sample.task,
        "difficulty": sample.difficulty,
        "messages": [_turn(message, names) for message in sample.messages],
    }
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _write_images(sample: Sample, folder: Path, index: int) -> Iterator[str]:
    """Names of the images, in order, as they stand in the line."""
    names = []
    for number, image in enumerate(sample.images, start=1):
        suffix = f"-{number}" if number > 1 else ""
        names.append(f"{IMAGES}/{index:06d}{suffix}.png")
        write_bytes(folder / names[-1], encode_png(image))
    return iter(names)


def _turn(message: Message, names: Iterator[str]) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.text}
    parts = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": next(names)}
        for part in message.parts
    ]
    return {"role": message.role, "content": parts}


def _facts(folder: Path, new: int) -> FolderFacts:
    texts, hardness = set(), []
    for _, line in numbered_lines(folder / LINES):
        record = json.loads(line)
        hardness.append(record["difficulty"])
        texts.add(sha256(_text(record["messages"]).encode()).digest())
    sizes = [path.stat().st_size for path in (folder / IMAGES).glob("*.png")]
    return FolderFacts(
        samples=len(hardness),
        new=new,
        different=len(texts),
        images=len(sizes),
        image_bytes=sum(sizes),
        difficulty=(min(hardness), sum(hardness) / len(hardness), max(hardness)),
    )


def _text(messages: list[dict[str, Any]]) -> str:
    """Question and answer without the names of pictures."""
    parts = [part for turn in messages for part in _parts(turn["content"])]
    return json.dumps([part["text"] for part in parts if part["type"] == "text"])


def _parts(content: str | list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
