"""Files of entries: each written by one process from its start to its end, read by all.

A file begins with 64 bytes that name its namespace; entries follow, each at a multiple of 64. What
a killed writer left at the end is an entry whose bytes are not all there: it is passed over.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from vlmpipe.errors import StageError
from vlmpipe.training.vision_cache.entry import (
    ALIGNMENT,
    HEADER_BYTES,
    KEY_BYTES,
    DamagedEntryError,
    EntryHeader,
    pack_entry,
    read_entry,
    read_header,
)
from vlmpipe.training.vision_cache.features import ImageFeatures

SUFFIX = ".features"
SHARD_BYTES = 1 << 32
"""Each shard that is read takes a file handle: few large ones."""

_MAGIC = b"VLMSHARD"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Place(NamedTuple):
    """Where an entry is; offset and size in bytes."""

    path: Path
    offset: int
    size: int


class ShardWriter:
    """Appends entries to shards of its own, a new one when the last is full.

    A forked process begins a shard of its own too.
    """

    def __init__(self, folder: Path, namespace: bytes, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder = folder
        self._namespace = namespace
        self._limit = shard_bytes
        self._stream: FileIO | None = None
        self._owner = os.getpid()
        self._end = 0

    def append(self, key: bytes, features: ImageFeatures) -> Place:
        """Write an entry.

        Raises:
            StageError: when the disk is full or refuses; what was written before is untouched.
        """
        parts = pack_entry(key, features)
        size = sum(len(part) for part in parts)
        try:
            path, stream = self._shard_for(size)
            _write_all(stream, parts)
        except OSError as exc:
            self._give_up()
            raise _refused(exc, self._folder) from exc
        offset, self._end = self._end, self._end + size
        return Place(path, offset, size)

    def flush(self) -> None:
        """Bring what was written to the disk.

        Raises:
            StageError: when the disk refuses.
        """
        if self._stream is None or self._owner != os.getpid():
            return
        try:
            os.fsync(self._stream.fileno())
        except OSError as exc:
            self._give_up()
            raise _refused(exc, self._folder) from exc

    def _shard_for(self, size: int) -> tuple[Path, FileIO]:
        if self._owner != os.getpid():
            self._stream, self._owner = None, os.getpid()
        if self._stream is not None and self._end + size > self._limit:
            self.flush()
            self._stream.close()
            self._stream = None
        if self._stream is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._stream = FileIO(self._folder / f"{uuid4().hex}{SUFFIX}", "x")
            self._end = 0
            _write_all(self._stream, [(_MAGIC + self._namespace).ljust(ALIGNMENT, b"\0")])
            self._end = ALIGNMENT
        return Path(str(self._stream.name)), self._stream

    def _give_up(self) -> None:
        """Give the unfinished entry's space back; the next one begins a new shard."""
        if self._stream is None:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._stream.fileno(), self._end)
        with contextlib.suppress(OSError):
            self._stream.close()
        self._stream = None


class ShardReader:
    """One shard, read as far as it reached when it was last looked at."""

    def __init__(self, path: Path, namespace: bytes) -> None:
        self.path = path
        self._namespace = namespace
        self._map: mmap.mmap | None = None
        self._scanned = 0

    def new_entries(self) -> Iterator[tuple[int, EntryHeader]]:
        """Offsets and headers of the entries that were finished since the last call.

        An entry under way ends the walk; the next call takes it up again.

        Raises:
            DamagedEntryError: for a file of something else, and for a damaged header, behind which
                nothing can be found.
            OSError: when the file cannot be read.
        """
        with self.path.open("rb", buffering=0) as stream:
            handle = stream.fileno()
            # Headers lie megabytes apart: reading ahead would fetch what nobody looks at.
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
            size = os.fstat(handle).st_size
            if size < ALIGNMENT:
                return
            if os.pread(handle, len(_MAGIC) + KEY_BYTES, 0) != _MAGIC + self._namespace:
                raise DamagedEntryError("it is no shard of this folder")
            self._scanned = max(self._scanned, ALIGNMENT)
            while self._scanned + HEADER_BYTES <= size:
                header = read_header(os.pread(handle, HEADER_BYTES, self._scanned))
                if self._scanned + header.entry_bytes > size:
                    return
                yield self._scanned, header
                self._scanned += header.entry_bytes

    def read(self, offset: int, size: int, key: bytes) -> ImageFeatures:
        """The entry of `size` bytes at an offset, verified; its tensors lie in the map.

        Raises:
            DamagedEntryError: when it is not what was written.
            OSError: when the file cannot be read.
        """
        data = self._mapped(offset + size)
        # Touching a page behind the end of a file that was cut would kill the process.
        if min(len(data), data.size()) < offset + size:
            raise DamagedEntryError("the file is shorter than it was")
        return read_entry(data, offset, key)

    def _mapped(self, size: int) -> mmap.mmap:
        """The file, mapped to at least `size` bytes where it has so many.

        Copied on write: torch warns of memory that it must not write to, and what a caller did to
        a tensor must not reach the file. A map that is left for a longer one lives as long as its
        tensors do.
        """
        if self._map is None or len(self._map) < size:
            with self.path.open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._map


def _write_all(stream: FileIO, parts: Sequence[bytes | memoryview]) -> None:
    for part in parts:
        left = memoryview(part)
        while left:
            left = left[stream.write(left) :]


def _refused(error: OSError, folder: Path) -> StageError:
    full = error.errno in _FULL
    reason = "the disk is full" if full else (error.strerror or str(error))
    return StageError(
        f"features of images cannot be written to {folder}: {reason}; those written before are"
        " whole and will be used",
        "make space there, and run the same command again",
        "keep them elsewhere: train.vision_cache_folder=DIR",
        "keep them in memory, for this training alone: train.vision_cache=memory",
        "or compute them anew in each step: train.vision_cache=off",
    )
