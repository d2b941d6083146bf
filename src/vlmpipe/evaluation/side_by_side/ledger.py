"""The file of one engine's records: what it holds already, and what is added."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO

from vlmpipe.errors import StageError
from vlmpipe.evaluation.records import NOT_ASKED, Record, System, file_name, read_records
from vlmpipe.pipeline.failures import disk_full, is_disk_full

SUPERSEDED = "superseded"
"""Folder of records whose system has changed since."""


class Ledger:
    """Records of one system, one line each, written as they come."""

    def __init__(
        self, folder: Path, system: System, split: str, *, wants_loss: bool = False
    ) -> None:
        """Open the system's file.

        Answered samples of the same system are done; failed ones are asked again, and so are, with
        `wants_loss`, those whose loss was not asked for. A file of another system (other weights,
        another version, another limit) is set aside under `superseded/`.

        Raises:
            StageError: when the file cannot be read or written.
        """
        self.path = folder / file_name(system.engine)
        self._split = split
        self._wants_loss = wants_loss
        self.set_aside: Path | None = None
        self.done: dict[str, str] = {}
        """Digest of the inputs by sample id, of this split."""

        self._there: set[str] = set()
        """Ids of the split that have a record, done or not."""

        self._repeated = False
        with self._told():
            folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._take_over(system)
            self._stream: BinaryIO = self.path.open("ab")

    @property
    def closed(self) -> bool:
        """Whether nothing more can be added."""
        return self._stream.closed

    def add(self, record: Record) -> None:
        """Write one record; it is in the file when this returns.

        Raises:
            StageError: when it cannot be written.
        """
        self._repeated |= record.sample in self._there
        self._there.add(record.sample)
        self.done[record.sample] = record.inputs
        with self._told():
            self._stream.write(record.as_line().encode())
            self._stream.flush()

    def close(self, known: Collection[str] | None = None) -> None:
        """Close the file.

        With the ids that the source has now, records of other samples of this split leave; a
        sample that was asked again keeps its last record.

        Raises:
            StageError: when it cannot be written.
        """
        with self._told():
            self._stream.close()
            gone = known is not None and not self._there <= set(known)
            if gone or self._repeated:
                self._tidy(known)

    def _tidy(self, known: Collection[str] | None) -> None:
        last = {record.key: place for place, record in enumerate(read_records(self.path))}
        places = count()
        self._rewrite(
            lambda record: (
                next(places) == last[record.key]
                and (known is None or record.split != self._split or record.sample in known)
            )
        )

    def _take_over(self, system: System) -> None:
        records = read_records(self.path)
        if any(record.system.digest != system.digest for record in records):
            aside = self.path.parent / SUPERSEDED
            aside.mkdir(exist_ok=True)
            number = len(list(aside.glob(f"{self.path.stem}.*.jsonl"))) + 1
            self.set_aside = aside / f"{self.path.stem}.{number:03d}.jsonl"
            self.path.rename(self.set_aside)
            return
        self._rewrite(lambda _: True)  # without a last line that was cut off
        for record in read_records(self.path):
            if record.split == self._split:
                self._there.add(record.sample)
                self._remember(record)

    def _remember(self, record: Record) -> None:
        not_asked = record.loss is None and record.unscored in (None, NOT_ASKED)
        if record.status == "failed" or (self._wants_loss and not_asked):
            self.done.pop(record.sample, None)
        else:
            self.done[record.sample] = record.inputs

    def _rewrite(self, keeps: Callable[[Record], bool]) -> None:
        """Write the file anew beside itself, then take its place."""
        aside = self.path.with_suffix(".partial")
        with aside.open("wb") as stream:
            for record in self._kept(keeps):
                stream.write(record.as_line().encode())
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(self.path)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the file system refuses, as an error for people."""
        try:
            yield
        except OSError as exc:
            if is_disk_full(exc):
                raise disk_full(self.path.parent) from exc
            raise StageError(
                f"records cannot be written to {self.path}: {exc.strerror or exc}",
                "make the place writable, or choose another: run.outputs_dir=DIR",
            ) from exc

    def _kept(self, keeps: Callable[[Record], bool]) -> Iterator[Record]:
        return (record for record in read_records(self.path) if keeps(record))
