"""Prepared samples, read one by one from the parquet files that `prepare_data` wrote."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol, overload, runtime_checkable

from vlmpipe.data.rows import from_row
from vlmpipe.data.sources import referenced_files
from vlmpipe.encoding.conversation import Sample
from vlmpipe.errors import ArtifactError

__all__ = [
    "Split",
    "SplitSamples",
    "TrainingSamples",
    "column_of",
    "load_split",
    "load_training",
    "origin_of",
    "referenced_files",
]

Split = Literal["train", "heldout"]
GENERAL_NAME = "general.parquet"
"""General samples that are trained on beside the split `train`, see `data.mixing`."""

FIELDS = ("id", "task", "difficulty", "origin", "messages", "sizes")
"""Columns that make a sample without its pictures."""


@runtime_checkable
class Columns(Protocol):
    """Samples that can tell a field of all of them without making any."""

    def column(self, name: str) -> list[Any]:
        """As `SplitSamples.column`."""


def column_of(samples: Sequence[Sample], name: str) -> list[Any]:
    """A field of every sample, one sample at a time where they are no table."""
    if isinstance(samples, Columns):
        return samples.column(name)
    return [getattr(sample, name) for sample in samples]


def origin_of(samples: Sequence[Sample], index: int) -> str:
    """`file:line` of a sample that cannot be read itself; empty where nothing else can tell."""
    return str(samples.column("origin")[index]) if isinstance(samples, Columns) else ""


def load_split(folder: Path, split: Split) -> SplitSamples:
    """The samples of one split under a `setup` version's data folder.

    Raises:
        ArtifactError: when its file is missing or not readable.
    """
    return SplitSamples(folder / f"{split}.parquet")


def load_training(folder: Path) -> TrainingSamples:
    """Everything that is trained on: the split `train`, then the general samples if there are any.

    Raises:
        ArtifactError: when a file is missing or not readable.
    """
    general = folder / GENERAL_NAME
    mixed = (SplitSamples(general),) if general.is_file() else ()
    return TrainingSamples((load_split(folder, "train"), *mixed))


class SplitSamples(Sequence[Sample]):
    """A split as a sequence; images are read and decoded when their pixels are looked at.

    Can be sent to other processes; each opens the file for itself. Any thread may look at the
    images of a sample.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return from_row(self._row(position, FIELDS), partial(self._picture, position))

    def pictures(self, index: int) -> list[bytes]:
        """A sample's images in order, encoded as they are stored."""
        return list(self._row(index, ("pictures",))["pictures"])

    def _picture(self, index: int, place: int) -> bytes:
        return self.pictures(index)[place]

    def column(self, name: str) -> list[Any]:
        """`id`, `task`, `difficulty`, `weight` or `origin` of every row; no image is read."""
        values: list[Any] = self._file.read(columns=[name]).column(0).to_pylist()
        return values

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.path = path
        self._open()

    def _open(self) -> None:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet

        try:
            self._file: Any = parquet.ParquetFile(self.path, memory_map=True)
        except (OSError, pyarrow.ArrowException) as exc:
            raise ArtifactError(
                f"{self.path} cannot be read as samples: {str(exc).splitlines()[0]}",
                "prepare the data again: `vlmpipe run-all --force setup` with the same options",
            ) from exc
        self._starts = [0]
        for group in range(self._file.num_row_groups):
            self._starts.append(self._starts[-1] + self._file.metadata.row_group(group).num_rows)
        self._held: dict[Sequence[str], tuple[int, Any]] = {}
        self._reading = Lock()

    def _row(self, position: int, columns: Sequence[str]) -> Any:
        group = bisect_right(self._starts, position) - 1
        rows = self._group(group, columns)
        return rows.slice(position - self._starts[group], 1).to_pylist()[0]

    def _group(self, group: int, columns: Sequence[str]) -> Any:
        """Some columns of a row group; the last one asked for is held."""
        with self._reading:
            held, rows = self._held.get(columns, (-1, None))
            if held != group:
                rows = self._file.read_row_group(group, columns=list(columns))
                self._held[columns] = (group, rows)
            return rows


@dataclass(frozen=True)
class TrainingSamples(Sequence[Sample]):
    """Files of samples as one sequence."""

    parts: tuple[SplitSamples, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        part, place = self._place(index)
        return part[place]

    def pictures(self, index: int) -> list[bytes]:
        """As `SplitSamples.pictures`."""
        part, place = self._place(index)
        return part.pictures(place)

    def column(self, name: str) -> list[Any]:
        """As `SplitSamples.column`, of all files."""
        return [value for part in self.parts for value in part.column(name)]

    def _place(self, index: int) -> tuple[SplitSamples, int]:
        place = index + len(self) if index < 0 else index
        for part in self.parts:
            if 0 <= place < len(part):
                return part, place
            place -= len(part)
        raise IndexError(f"sample {index} of {len(self)}")
