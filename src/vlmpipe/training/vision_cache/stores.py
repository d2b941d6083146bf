"""Where features are kept: in memory for one training, on the disk for all later ones."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from vlmpipe.errors import StageError
from vlmpipe.pipeline.files import write_json
from vlmpipe.training.vision_cache.entry import DamagedEntryError
from vlmpipe.training.vision_cache.features import ImageFeatures
from vlmpipe.training.vision_cache.namespace import Namespace
from vlmpipe.training.vision_cache.shards import (
    SHARD_BYTES,
    SUFFIX,
    Place,
    ShardReader,
    ShardWriter,
)

DESCRIPTION_NAME = "namespace.json"


class FeatureStore(Protocol):
    """Features by key, within one namespace."""

    def get(self, key: bytes) -> ImageFeatures | None:
        """Features in RAM exactly as they were put, None where there are none to be trusted."""

    def put(self, key: bytes, features: ImageFeatures) -> int:
        """Keep features; bytes that they take.

        Raises:
            StageError: when they cannot be kept.
        """

    def flush(self) -> None:
        """Make what was put safe, for other processes too."""

    def refresh(self) -> None:
        """See what other processes have put."""

    def take_faults(self) -> list[str]:
        """What was found damaged since the last call, for people."""


class MemoryStore:
    """Tensors of this process; gone with it."""

    def __init__(self) -> None:
        self._features: dict[bytes, ImageFeatures] = {}

    def get(self, key: bytes) -> ImageFeatures | None:
        """The very tensors that were put."""
        return self._features.get(key)

    def put(self, key: bytes, features: ImageFeatures) -> int:
        """Keep a copy in RAM."""
        self._features[key] = features.cpu()
        levels = (features.tokens, *features.deepstack)
        return sum(level.numel() * level.element_size() for level in levels)

    def flush(self) -> None:
        """Nothing to do."""

    def refresh(self) -> None:
        """Nothing to do."""

    def take_faults(self) -> list[str]:
        """None: memory is trusted."""
        return []


class DiskStore:
    """Shards in a folder of the namespace's own."""

    def __init__(self, folder: Path, namespace: Namespace, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = folder / namespace.name
        self._namespace = namespace
        self._writer = ShardWriter(self.folder, namespace.digest, shard_bytes)
        self._readers: dict[Path, ShardReader] = {}
        self._places: dict[bytes, list[Place]] = {}
        self._unreadable: set[Path] = set()
        self._faults: list[str] = []
        self._describe()
        self.refresh()

    def get(self, key: bytes) -> ImageFeatures | None:
        """Features whose hash was verified just now; a damaged entry is dropped and told."""
        places = self._places.get(key, [])
        while places:
            place = places[-1]
            try:
                return self._reader(place.path).read(place.offset, place.size, key)
            except (DamagedEntryError, OSError) as exc:
                self._faults.append(f"{place.path} at byte {place.offset}: {exc}")
                places.pop()
        return None

    def put(self, key: bytes, features: ImageFeatures) -> int:
        """Append to this process's shard.

        Raises:
            StageError: when the disk is full or refuses.
        """
        place = self._writer.append(key, features)
        self._places.setdefault(key, []).append(place)
        return place.size

    def flush(self) -> None:
        """Bring this process's shard to the disk.

        Raises:
            StageError: when the disk refuses.
        """
        self._writer.flush()

    def refresh(self) -> None:
        """Look for new shards, and for new entries in those known."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path not in self._unreadable:
                self._read_new_entries(path)

    def take_faults(self) -> list[str]:
        """What was found damaged since the last call."""
        faults, self._faults = self._faults, []
        return faults

    def _read_new_entries(self, path: Path) -> None:
        try:
            for offset, header in self._reader(path).new_entries():
                place = Place(path, offset, header.entry_bytes)
                places = self._places.setdefault(header.key, [])
                if place not in places:
                    places.append(place)
        except (DamagedEntryError, OSError) as exc:
            self._unreadable.add(path)
            self._faults.append(f"{path}: {exc}; what follows in it is passed over")

    def _reader(self, path: Path) -> ShardReader:
        if path not in self._readers:
            self._readers[path] = ShardReader(path, self._namespace.digest)
        return self._readers[path]

    def _describe(self) -> None:
        path = self.folder / DESCRIPTION_NAME
        try:
            if not path.exists():
                write_json(path, self._namespace.facts)
        except OSError as exc:
            raise StageError(
                f"the folder for features of images, {self.folder}, cannot be written:"
                f" {exc.strerror or exc}",
                "choose another: train.vision_cache_folder=DIR",
                "keep them in memory, for this training alone: train.vision_cache=memory",
                "or compute them anew in each step: train.vision_cache=off",
            ) from exc
