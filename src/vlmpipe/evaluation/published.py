"""Published stages of a run, for whoever reads a run from outside its stages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.pipeline.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class PublishedStage:
    """The version of a stage that `latest` points to."""

    name: str
    number: int
    version: str
    folder: Path
    manifest: Manifest

    def read_json(self, name: str) -> Any:
        """A JSON file of the version, None where it is absent or unreadable."""
        try:
            return json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError):
            return None

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """A JSONL file of the version; lines that are no object are left out."""
        return list(rows_of(self.folder / name))


def published_stages(run_folder: Path) -> dict[str, PublishedStage]:
    """By stage name, in the order of their numbers.

    Raises:
        ArtifactError: when a manifest is damaged.
    """
    found = {}
    for link in sorted(run_folder.glob("[0-9]*_*/latest")):
        folder = link.resolve()
        manifest = read_manifest(folder)
        if manifest is not None:
            found[manifest.stage] = PublishedStage(
                manifest.stage, manifest.number, folder.name, folder, manifest
            )
    return found


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSONL file one by one; none where it is absent, lines that are none left out."""
    try:
        with path.open("rb") as stream:
            for line in stream:
                row = _object(line)
                if row is not None:
                    yield row
    except OSError:
        return


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
