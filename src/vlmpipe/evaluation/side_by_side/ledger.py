"""The file of one engine's records: what it holds already, and what is added."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO

from vlmpipe.evaluation.records import Record, System, file_name, read_records

SUPERSEDED = "superseded"
"""Folder of records whose system has changed since."""


class Ledger:
    """Records of one system, one line each, written as they come."""

    def __init__(self, folder: Path, system: System, split: str) -> None:
        """Open the system's file.

        Answered samples of the same system are kept; failed ones of this split are asked again and
        leave; a file of another system (other weights, another version, another limit) is set
        aside under `superseded/`.
        """
        self.path = folder / file_name(system.engine)
        self._split = split
        self.set_aside: Path | None = None
        self.done: dict[str, str] = {}
        """Digest of the inputs by sample id, of this split."""

        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._take_over(system)
        self._repeated = False
        self._stream: BinaryIO = self.path.open("ab")

    @property
    def closed(self) -> bool:
        """Whether nothing more can be added."""
        return self._stream.closed

    def add(self, record: Record) -> None:
        """Write one record; it is in the file when this returns."""
        self._repeated |= record.sample in self.done
        self.done[record.sample] = record.inputs
        self._stream.write(record.as_line().encode())
        self._stream.flush()

    def close(self, known: Collection[str] | None = None) -> None:
        """Close the file.

        With the ids that the source has now, records of other samples of this split leave; a
        sample that was asked again keeps its last record.
        """
        self._stream.close()
        gone = known is not None and not self.done.keys() <= set(known)
        if not (gone or self._repeated):
            return
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
        self._rewrite(lambda record: record.split != self._split or record.status == "answered")
        for record in read_records(self.path):
            if record.split == self._split:
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

    def _kept(self, keeps: Callable[[Record], bool]) -> Iterator[Record]:
        return (record for record in read_records(self.path) if keeps(record))
