"""One image's features as bytes: a header, a hash over everything, the values as they are.

    offset  bytes
         0      8   magic
         8     32   key
        40      8   length of the values in bytes
        48      4   levels: 1 and those of DeepStack
        52      4   image tokens
        56      4   width
        60     16   type of the values, as torch names it
        76     16   unused, zero
        92      8   hash of the 92 bytes before (xxh3_64)
       100     16   hash of the 100 bytes before and the values (xxh3_128)
       116     12   unused, zero
       128          values [levels, tokens, width], then zeros up to a multiple of 64

All numbers are little-endian. xxh3_128 reads 24 GB/s here where crc32 reads 4 and sha256 1.8: it
guards against damage, not against forgery.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import xxhash

from vlmpipe.errors import StageError
from vlmpipe.training.vision_cache.features import ImageFeatures

if TYPE_CHECKING:
    import torch

ALIGNMENT = 64
"""Bytes; vector instructions and every torch type read from such an address."""

HEADER_BYTES = 128
KEY_BYTES = 32
_MAGIC = b"VLMFEAT1"
_FIELDS = struct.Struct(f"<8s{KEY_BYTES}sQIII16s16x")
_SUMMED = _FIELDS.size + 8


class DamagedEntryError(Exception):
    """Bytes that are not what was written; caught where features can be computed anew."""


@dataclass(frozen=True)
class EntryHeader:
    """What is known of an entry without its values."""

    key: bytes
    length: int
    levels: int
    tokens: int
    width: int
    dtype: str

    @property
    def entry_bytes(self) -> int:
        """Header, values and padding."""
        return HEADER_BYTES + _padded(self.length)


def entry_bytes(tokens: int, width: int, levels: int, item_bytes: int) -> int:
    """Bytes that an image's features take in a shard."""
    return HEADER_BYTES + _padded(tokens * width * levels * item_bytes)


def pack_entry(key: bytes, features: ImageFeatures) -> tuple[bytes, memoryview, bytes]:
    """Header, values and padding of an entry, to be written one after the other.

    Raises:
        StageError: where levels differ in type or shape, which no known family's do.
    """
    import torch

    levels = (features.tokens, *features.deepstack)
    first = levels[0]
    if any(each.dtype != first.dtype or each.shape != first.shape for each in levels):
        raise StageError(
            "the tower's levels differ in type or shape and cannot be kept together:"
            f" {[(str(each.dtype), tuple(each.shape)) for each in levels]}",
            "train without the cache: train.vision_cache=off",
        )
    stacked = torch.stack([level.detach().cpu() for level in levels])
    values = stacked.view(-1).view(torch.uint8).numpy().data
    dtype = str(first.dtype).removeprefix("torch.").encode()
    tokens, width = first.shape
    fields = _FIELDS.pack(_MAGIC, key, values.nbytes, len(levels), tokens, width, dtype)
    summed = fields + xxhash.xxh3_64_digest(fields)
    header = summed + _entry_hash(summed, values)
    padding = bytes(_padded(values.nbytes) - values.nbytes)
    return header.ljust(HEADER_BYTES, b"\0"), values, padding


def read_header(data: bytes) -> EntryHeader:
    """The header in `HEADER_BYTES` bytes.

    Raises:
        DamagedEntryError: when they are no header, or not as they were written.
    """
    fields = data[: _FIELDS.size]
    if xxhash.xxh3_64_digest(fields) != data[_FIELDS.size : _SUMMED]:
        raise DamagedEntryError("the header is damaged")
    magic, key, length, levels, tokens, width, dtype = _FIELDS.unpack(fields)
    if magic != _MAGIC:
        raise DamagedEntryError("the header is of another version")
    return EntryHeader(key, length, levels, tokens, width, dtype.rstrip(b"\0").decode())


def read_entry(data: mmap.mmap | bytearray, offset: int, key: bytes) -> ImageFeatures:
    """The features of an entry, its hash verified; the tensors lie in `data`, nothing is copied.

    Raises:
        DamagedEntryError: when a byte differs from what was written under that key.
    """
    import torch

    view = memoryview(data)[offset:]
    header = read_header(bytes(view[:HEADER_BYTES]))
    values = view[HEADER_BYTES : HEADER_BYTES + header.length]
    if header.key != key:
        raise DamagedEntryError("it is another image's")
    if _entry_hash(bytes(view[:_SUMMED]), values) != bytes(view[_SUMMED : _SUMMED + 16]):
        raise DamagedEntryError("its hash differs")
    flat = torch.frombuffer(
        data, dtype=torch.uint8, count=header.length, offset=offset + HEADER_BYTES
    )
    shape = (header.levels, header.tokens, header.width)
    levels = flat.view(_dtype(header.dtype)).view(shape)
    return ImageFeatures(levels[0], tuple(levels[1:]))


def _entry_hash(summed: bytes, values: memoryview) -> bytes:
    digest = xxhash.xxh3_128(summed)
    digest.update(values)
    return digest.digest()


def _dtype(name: str) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(torch, name)
    return found


def _padded(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
