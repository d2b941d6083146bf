"""Samples to evaluate on: a run's own splits, or a file of messages."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vlmpipe.config import Config
from vlmpipe.config.data import DataSource
from vlmpipe.data.problems import SampleError
from vlmpipe.data.sources import candidates
from vlmpipe.data.store import Split, SplitSamples, load_split
from vlmpipe.encoding.conversation import Sample
from vlmpipe.errors import BadSamplesError, ConfigError

SPLITS: tuple[Split, ...] = ("heldout", "train")
LISTED = 20


class SampleSource(Protocol):
    """Samples one after another, as often as asked; never all of them in memory."""

    @property
    def name(self) -> str:
        """As it stands in records: `heldout`, `train`, or `FOLDER/FILE#DIGEST`."""

    @property
    def count(self) -> int:
        """How many there are."""

    def __iter__(self) -> Iterator[Sample]: ...


@dataclass(frozen=True)
class SplitSource:
    """The first samples of one of a run's own splits."""

    name: Split
    samples: SplitSamples
    count: int

    def __iter__(self) -> Iterator[Sample]:
        return (self.samples[index] for index in range(self.count))


@dataclass(frozen=True)
class FileSource:
    """The first samples of a JSONL file of messages."""

    name: str
    config: Config
    """Its `data.sources` is this file."""

    count: int

    def __iter__(self) -> Iterator[Sample]:
        every = (candidate.load() for candidate in candidates(self.config))
        return (sample for sample, _ in zip(every, range(self.count), strict=False))


def open_source(config: Config, data: str, setup: Path | None, limit: int | None) -> SampleSource:
    """`heldout` or `train` of a setup version's folder, or a file of messages.

    Every sample of a file is read once to see that it can be.

    Raises:
        ConfigError: for data that is not there or holds nothing.
        BadSamplesError: naming each line that is no sample or repeats an id.
    """
    if data in SPLITS:
        return _split_source("train" if data == "train" else "heldout", setup, limit)
    path = Path(data)
    if not path.is_file():
        near = difflib.get_close_matches(data, SPLITS, n=1)
        hint = f"; did you mean --data {near[0]}?" if near else ""
        raise ConfigError(
            f"{data!r} is neither a split nor a file{hint}",
            "evaluate on: --data heldout, --data train, --data FILE.jsonl",
        )
    source = DataSource(path=path, task=config.data.task)
    asked = config.model_copy(
        update={"data": config.data.model_copy(update={"sources": (source,)})}
    )
    count = _checked_count(asked, path, limit)
    return FileSource(_name_of(path), asked, count)


def _name_of(path: Path) -> str:
    """With its folder, and a digest of where that is: many files of samples are called alike."""
    whole = path.resolve()
    digest = hashlib.sha256(str(whole).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{whole.parent.name}/{whole.name}#{digest[:6]}"


def pick(source: SampleSource, ids: Collection[str]) -> dict[str, Sample]:
    """Samples of these ids, images and all; those that the source does not have are left out."""
    return {sample.id: sample for sample in source if sample.id in ids}


def inputs_digest(sample: Sample) -> str:
    """sha256 of what the engine is asked and of the answer it is held against."""
    digest = hashlib.sha256()
    for message in sample.messages:
        digest.update(f"\0{message.role}".encode())
        for part in message.parts:
            if isinstance(part, str):
                digest.update(b"\0text" + part.encode("utf-8", "surrogatepass"))
            else:
                digest.update(f"\0image {part.mode} {part.size}".encode() + part.tobytes())
    return digest.hexdigest()


def _split_source(split: Split, setup: Path | None, limit: int | None) -> SplitSource:
    if setup is None:
        raise ConfigError(
            f"the run has no prepared data, so there is no {split!r} to evaluate on",
            "prepare it: `vlmpipe setup` with the same options",
            "or give a file of messages: --data FILE.jsonl",
        )
    samples = load_split(setup / "data", split)
    count = len(samples) if limit is None else min(limit, len(samples))
    if not count:
        raise ConfigError(
            f"the split {split!r} has no samples",
            "hold some out: data.heldout_fraction=0.2, then `vlmpipe setup`",
            "or evaluate on other data: --data train, --data FILE.jsonl",
        )
    return SplitSource(split, samples, count)


def _checked_count(config: Config, path: Path, limit: int | None) -> int:
    """Samples that can be used, `limit` at most."""
    seen: dict[str, str] = {}
    problems: list[str] = []
    for candidate in candidates(config):
        if limit is not None and len(seen) == limit:
            break
        try:
            sample = candidate.load()
        except SampleError as exc:
            problems.append(f"{candidate.origin}: {exc}")
            continue
        if sample.id in seen:
            problems.append(
                f"{candidate.origin}: the id {sample.id!r} stands in {seen[sample.id]} already"
            )
        seen.setdefault(sample.id, candidate.origin)
    if problems:
        hidden = len(problems) - LISTED
        listed = problems[:LISTED] + ([f"and {hidden} more"] if hidden > 0 else [])
        raise BadSamplesError(
            f"{len(problems)} samples of {path} cannot be evaluated",
            "mend the file, or leave those lines out",
            problems=listed,
        )
    if not seen:
        raise ConfigError(f"{path} holds no sample", "give another file: --data FILE.jsonl")
    return len(seen)
