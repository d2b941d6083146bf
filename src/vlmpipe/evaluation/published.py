"""Published stages of a run, for whoever reads a run from outside its stages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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


def outdated_inputs(stage: PublishedStage, stages: Mapping[str, PublishedStage]) -> list[str]:
    """`train v001, latest is v002` for each input that is there in another version than the one
    that this stage was made from.

    The same files under another version are none: nothing has to be made anew for them, nor for a
    gate of which nothing is read.
    """
    return [
        f"{name} {taken.get('version')}, latest is {stages[name].version}"
        for name, taken in stage.manifest.inputs.items()
        if name in stages
        and taken.get("version") != stages[name].version
        and not _same_files(taken.get("files"), stages[name])
    ]


def departures(stages: Mapping[str, PublishedStage]) -> list[str]:
    """`convert v001 was made from merge v001, latest is v002` for each such input of each stage.

    One that has followed its own inputs but stands on a stage that has not is named as well.
    """
    found: list[str] = []
    behind: dict[str, PublishedStage] = {}
    for stage in sorted(stages.values(), key=lambda each: each.number):
        named = f"{stage.name} {stage.version} was made from"
        own = [f"{named} {each}" for each in outdated_inputs(stage, stages)]
        inputs = stage.manifest.inputs
        below = [each for each in behind.values() if each.name in inputs]
        if not own and below:
            own = [f"{named} {e.name} {e.version}, which is behind its own inputs" for e in below]
        if own:
            behind[stage.name] = stage
        found += own
    return found


def _same_files(taken: Any, latest: PublishedStage) -> bool:
    """Whether the latest version holds what was taken; manifests that do not say it hold it not."""
    if not isinstance(taken, dict):
        return False
    outputs = latest.manifest.outputs
    return all(name in outputs and outputs[name].sha256 == sha for name, sha in taken.items())


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
