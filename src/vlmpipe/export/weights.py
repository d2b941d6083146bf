"""Safetensors shards of a model folder: read tensor by tensor, written within a size limit."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmpipe.errors import StageError
from vlmpipe.pipeline.files import sha256_of, write_json

INDEX_NAME = "model.safetensors.index.json"
UNITS = {"MB": 10**6, "GB": 10**9}


def bytes_of(size: str) -> int:
    """`5GB` to bytes, decimal as transformers counts."""
    return int(size[:-2]) * UNITS[size[-2:]]


class Checkpoint:
    """The tensors of a model folder, opened shard by shard.

    Raises:
        StageError: when there are no weights, or a shard cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shard_of = {key: shard for shard in self._shards() for key in _keys_of(shard)}
        if not self._shard_of:
            raise StageError(
                f"{folder} holds no safetensors weights",
                "resolve the base model again: `vlmpipe run-all --force setup`",
            )
        self._refuse_a_lost_shard()

    @property
    def keys(self) -> frozenset[str]:
        """Every tensor's key."""
        return frozenset(self._shard_of)

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Key and tensor, shard after shard, one in memory at a time."""
        for shard in self._shards():
            with open_shard(shard) as stream:
                for key in sorted(stream.keys()):
                    yield key, stream.get_tensor(key)

    def tensor(self, key: str) -> Any:
        """One tensor by its key."""
        with open_shard(self._shard_of[key]) as stream:
            return stream.get_tensor(key)

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    def _refuse_a_lost_shard(self) -> None:
        index = self.folder / INDEX_NAME
        if not index.is_file():
            return
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        lost = sorted(named - self.keys)
        if lost:
            raise StageError(
                f"{self.folder} lacks {len(lost)} tensors that {INDEX_NAME} names, e.g. {lost[0]}",
                "resolve the base model again: `vlmpipe run-all --force setup`",
            )


class ShardWriter:
    """Writes tensors into shards of at most `limit` bytes, with an index where there are several.

    A tensor larger than the limit has a shard of its own.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._pending: dict[str, Any] = {}
        self._pending_bytes = 0
        self._shards: list[tuple[Path, tuple[str, ...]]] = []
        self._total = 0

    def add(self, key: str, tensor: Any) -> None:
        """Take a tensor; what no longer fits beside it is written first.

        Raises:
            OSError: ENOSPC when the disk is full.
        """
        size = _size(tensor)
        if self._pending and self._pending_bytes + size > self._limit:
            self._flush()
        self._pending[key] = tensor.contiguous()
        self._pending_bytes += size
        self._total += size

    def close(self) -> None:
        """Write the rest, name the shards by their number, write the index."""
        self._flush()
        count = len(self._shards)
        names = [self._name(number, count) for number in range(1, count + 1)]
        for (path, _), name in zip(self._shards, names, strict=True):
            path.rename(self._folder / name)
        if count > 1:
            pairs = zip(self._shards, names, strict=True)
            places = {key: name for (_, keys), name in pairs for key in keys}
            index = {
                "metadata": {"total_size": self._total},
                "weight_map": dict(sorted(places.items())),
            }
            write_json(self._folder / INDEX_NAME, index)

    @staticmethod
    def _name(number: int, count: int) -> str:
        if count == 1:
            return "model.safetensors"
        return f"model-{number:05d}-of-{count:05d}.safetensors"

    def _flush(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        if not self._pending:
            return
        path = self._folder / f"part-{len(self._shards)}.safetensors"
        try:
            save_file(self._pending, path, metadata={"format": "pt"})
        except SafetensorError as exc:
            code = re.search(r"os error (\d+)", str(exc))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from exc
        self._shards.append((path, tuple(self._pending)))
        self._pending, self._pending_bytes = {}, 0


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


def weights_digest(folder: Path) -> str:
    """sha256 over names and digests of the folder's safetensors files."""
    lines = (f"{path.name} {sha256_of(path)}\n" for path in sorted(folder.glob("*.safetensors")))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _keys_of(path: Path) -> list[str]:
    with open_shard(path) as stream:
        return list(stream.keys())


def _size(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())
