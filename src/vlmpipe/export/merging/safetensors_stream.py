"""Safetensors files as bytes: headers, tensors read by rows, shards written aside."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from vlmpipe.errors import StageError
from vlmpipe.pipeline.files import sync_path

PARTIAL_SUFFIX = ".partial"
FLOAT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Floating types that are folded, cast or copied, with the bytes of one value."""

_FLOAT_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_CODES = {name: code for code, name in _FLOAT_NAMES.items()}
_COPY_BYTES = 1 << 20
_NO_COPY_IN_KERNEL = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}


@dataclass(frozen=True)
class TensorSpan:
    """One tensor's type, shape and place in its file."""

    key: str
    code: str
    """Type as safetensors writes it: BF16."""

    shape: tuple[int, ...]
    begin: int
    """First byte, counted from the start of the file."""

    end: int

    @property
    def dtype(self) -> str | None:
        """torch's name of a floating type of 16 bits and more; None for every other type."""
        return _FLOAT_NAMES.get(self.code)

    @property
    def rows(self) -> int:
        """First side; a scalar is one row of one value."""
        return self.shape[0] if self.shape else 1

    @property
    def row_values(self) -> int:
        """Values in a row."""
        return prod(self.shape[1:])


@dataclass(frozen=True)
class ShardHeader:
    """What a safetensors file says about itself."""

    path: Path
    metadata: Mapping[str, str]
    spans: tuple[TensorSpan, ...]
    """In the order of the header, which need not be that of the bytes."""

    @cached_property
    def by_place(self) -> tuple[TensorSpan, ...]:
        """In the order of their bytes."""
        return tuple(sorted(self.spans, key=lambda span: (span.begin, span.end)))


def open_shard(path: Path) -> Any:
    """A safetensors file, opened for reading.

    Raises:
        StageError: when it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as exc:
        raise StageError(
            f"{path} cannot be read as safetensors: {exc}",
            "an adapter: train again with `vlmpipe run-all --force train`",
            "a base model: resolve it again with `vlmpipe run-all --force setup`",
        ) from exc


def read_header(path: Path) -> ShardHeader:
    """The header of a whole file: the library has refused holes, overlaps and a cut-off end.

    Raises:
        StageError: when it is damaged.
    """
    with open_shard(path), path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        listed = json.loads(stream.read(length))
    metadata = listed.pop("__metadata__", None) or {}
    start = 8 + length
    spans = (
        TensorSpan(
            key=key,
            code=entry["dtype"],
            shape=tuple(entry["shape"]),
            begin=start + entry["data_offsets"][0],
            end=start + entry["data_offsets"][1],
        )
        for key, entry in listed.items()
    )
    return ShardHeader(path, metadata, tuple(spans))


def header_bytes(
    shard: ShardHeader, dtypes: Mapping[str, str], lineage: Mapping[str, str]
) -> bytes:
    """A header like the shard's own: its order of names and of bytes, its metadata.

    `dtypes` gives the tensors that are stored in another floating type, `lineage` what is added to
    the metadata, or takes the place of what a base that was itself merged says there.
    """
    offsets: dict[str, tuple[int, int]] = {}
    end = 0
    for span in shard.by_place:
        begin, end = end, end + _stored_bytes(span, dtypes.get(span.key))
        offsets[span.key] = (begin, end)
    # transformers refuses a file with metadata that does not say "format".
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", **shard.metadata, **lineage}}
    for span in shard.spans:
        entries[span.key] = {
            "dtype": _CODES[dtypes[span.key]] if span.key in dtypes else span.code,
            "shape": list(span.shape),
            "data_offsets": list(offsets[span.key]),
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # values are aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text


class StoredTensor:
    """A tensor in an open file, read by rows."""

    def __init__(self, handle: int, span: TensorSpan) -> None:
        self.handle = handle
        self.span = span
        self._values: Any = None

    def rows(self, begin: int, end: int) -> Any:
        """Rows [begin, end) as [rows, values of a row], in the type they are stored in.

        The next call reads into the same memory: new pages for each block cost more than reading.

        Raises:
            StageError: when the file has become shorter.
        """
        import torch

        width, dtype = self.span.row_values, getattr(torch, self.span.dtype or "uint8")
        count = (end - begin) * width
        if self._values is None or self._values.numel() < count:
            self._values = torch.empty(count, dtype=dtype)
        values = self._values[:count]
        if count:
            stride = values.element_size() * width
            read_into(self.handle, _bytes_of(values), self.span.begin + begin * stride)
        return values.view(end - begin, width)


@contextmanager
def open_for_bytes(path: Path) -> Iterator[int]:
    """A file's handle, for reading without buffers."""
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def read_into(handle: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer from a place in a file.

    Raises:
        StageError: when the file ends before.
    """
    while len(buffer):
        count = os.preadv(handle, [buffer], offset)
        if count == 0:
            raise StageError(
                f"a safetensors file ended at byte {offset} while it was read",
                "nothing else may write into the model's folder; run the stage again",
            )
        buffer, offset = buffer[count:], offset + count


class ShardWriter:
    """One shard, written aside in the order of its bytes; `publish_shard` gives it its name."""

    def __init__(self, path: Path, header: bytes) -> None:
        self.aside = path.with_name(path.name + PARTIAL_SUFFIX)
        self._stream = self.aside.open("wb", buffering=0)
        self._handle = self._stream.fileno()
        _write_all(self._handle, memoryview(header))

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stream.close()
        if kind is not None:
            self.aside.unlink(missing_ok=True)

    def write(self, tensor: Any) -> None:
        """The values of a contiguous tensor.

        Raises:
            OSError: ENOSPC when the disk is full.
        """
        if tensor.numel():
            _write_all(self._handle, _bytes_of(tensor))

    def copy(self, handle: int, begin: int, end: int) -> None:
        """Bytes [begin, end) of another file, inside the kernel where it can.

        Raises:
            OSError: ENOSPC when the disk is full.
            StageError: when the other file has become shorter.
        """
        while begin < end:
            begin += _copy_some(handle, self._handle, begin, end - begin)


def publish_shard(aside: Path) -> Path:
    """Bring a written shard to the disk, then give it its name."""
    path = aside.with_name(aside.name.removesuffix(PARTIAL_SUFFIX))
    sync_path(aside)
    aside.replace(path)
    sync_path(path.parent)
    return path


def joined(spans: Iterable[TensorSpan]) -> Iterator[tuple[int, int]]:
    """Byte ranges of the spans, neighbours in one."""
    begin = end = -1
    for span in spans:
        if span.begin != end:
            if end > begin:
                yield begin, end
            begin = span.begin
        end = span.end
    if end > begin:
        yield begin, end


def _stored_bytes(span: TensorSpan, dtype: str | None) -> int:
    return prod(span.shape) * FLOAT_BYTES[dtype] if dtype else span.end - span.begin


def _bytes_of(tensor: Any) -> memoryview:
    """The tensor's own memory, as bytes; it must be contiguous and not a scalar."""
    import torch

    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def _write_all(handle: int, content: memoryview) -> None:
    while len(content):
        content = content[os.write(handle, content) :]


def _copy_some(source: int, target: int, offset: int, count: int) -> int:
    """Bytes copied, at least one."""
    try:
        copied = os.copy_file_range(source, target, count, offset)
    except OSError as exc:
        if exc.errno not in _NO_COPY_IN_KERNEL:
            raise
        copied = 0
    if copied:
        return copied
    buffer = memoryview(bytearray(min(count, _COPY_BYTES)))
    read_into(source, buffer, offset)
    _write_all(target, buffer)
    return len(buffer)
