"""The tensors of a model folder, over all of its safetensors files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmpipe.errors import StageError
from vlmpipe.export.merging.safetensors_stream import (
    StoredTensor,
    TensorSpan,
    open_for_bytes,
    open_shard,
    read_header,
)
from vlmpipe.pipeline.files import sha256_of

INDEX_NAME = "model.safetensors.index.json"
RESOLVE_AGAIN = "resolve the base model again: `vlmpipe run-all --force setup`"


class Checkpoint:
    """The tensors of a model folder, by the headers of its shards.

    Raises:
        StageError: when there are no weights, a shard is missing or cannot be read, or two shards
            hold the same tensor.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = _read_index(folder)
        self.shards = tuple(read_header(path) for path in self._paths())
        self.spans: Mapping[str, TensorSpan] = {
            span.key: span for shard in self.shards for span in shard.spans
        }
        self._shard_of = {span.key: shard for shard in self.shards for span in shard.spans}
        self._refuse_a_lost_shard()
        self._refuse_doubles()
        if not self.spans:
            raise StageError(f"{folder} holds no safetensors weights", RESOLVE_AGAIN)

    @property
    def keys(self) -> frozenset[str]:
        """Every tensor's key."""
        return frozenset(self.spans)

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Key and tensor, shard after shard, one in memory at a time."""
        for shard in self.shards:
            with open_shard(shard.path) as stream:
                for key in sorted(stream.keys()):
                    yield key, stream.get_tensor(key)

    def tensor(self, key: str) -> Any:
        """One tensor by its key."""
        with open_shard(self._shard_of[key].path) as stream:
            return stream.get_tensor(key)

    @contextmanager
    def opened(self, key: str) -> Iterator[StoredTensor]:
        """A tensor to read by rows."""
        with open_for_bytes(self._shard_of[key].path) as handle:
            yield StoredTensor(handle, self.spans[key])

    def _paths(self) -> list[Path]:
        """The files that the index names; without one, all that there are."""
        if self.index is None:
            return sorted(self.folder.glob("*.safetensors"))
        named = {self.folder / name for name in self.index["weight_map"].values()}
        return sorted(path for path in named if path.is_file())

    def _refuse_a_lost_shard(self) -> None:
        named = set(self.index["weight_map"]) if self.index else set()
        lost = sorted(named - self.keys)
        if lost:
            raise StageError(
                f"{self.folder} lacks {len(lost)} tensors that {INDEX_NAME} names, e.g. {lost[0]}",
                RESOLVE_AGAIN,
            )

    def _refuse_doubles(self) -> None:
        counts = Counter(span.key for shard in self.shards for span in shard.spans)
        doubles = sorted(key for key, count in counts.items() if count > 1)
        if doubles:
            raise StageError(
                f"{self.folder} holds {len(doubles)} tensors in more than one file and no"
                f" {INDEX_NAME} that says which counts",
                "leave one set of weights in the folder",
                problems=doubles[:5],
            )


def weights_digest(folder: Path) -> str:
    """sha256 over names and digests of the folder's safetensors files."""
    paths = sorted(folder.glob("*.safetensors"))
    return digest_of_files({path.name: sha256_of(path) for path in paths})


def digest_of_files(digests: Mapping[str, str]) -> str:
    """sha256 over `name sha256` lines, sorted by name."""
    lines = (f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read_index(folder: Path) -> dict[str, Any] | None:
    path = folder / INDEX_NAME
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        names = list(index["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise StageError(f"{path} cannot be read: {exc}", RESOLVE_AGAIN) from exc
    outside = sorted({str(name) for name in names if Path(str(name)).name != name})
    if outside:
        raise StageError(
            f"{path} names files outside its folder", RESOLVE_AGAIN, problems=outside[:5]
        )
    return dict(index)
