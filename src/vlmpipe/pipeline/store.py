"""Versions of stages on the disk: `outputs/<run>/<N>_<stage>/vNNN`, `latest`, and `.partial`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlmpipe.errors import ArtifactError
from vlmpipe.pipeline.files import sync_path, sync_tree, write_text
from vlmpipe.pipeline.manifest import Manifest, read_manifest
from vlmpipe.pipeline.stage import Stage

PARTIAL_SUFFIX = ".partial"
LEFT_NAME = ".left"
"""What an interrupted attempt with other settings left, for what it may still be of use."""

FINGERPRINT_MARK = ".fingerprint"
VERSION_NAME = re.compile(r"v\d{3,}")


@dataclass(frozen=True)
class Version:
    """A published version of a stage."""

    name: str
    folder: Path
    manifest: Manifest


class RunStore:
    """One run's folder. Published versions are never changed; `latest` is replaced atomically."""

    def __init__(self, outputs_dir: Path, run_name: str) -> None:
        self.folder = outputs_dir / run_name

    def stage_folder(self, stage: Stage) -> Path:
        """Where the stage's versions live."""
        return self.folder / stage.folder_name

    def versions(self, stage: Stage) -> Iterator[Version]:
        """Published versions, newest first."""
        folder = self.stage_folder(stage)
        for number in sorted(self._numbers(stage), reverse=True):
            name = f"v{number:03d}"
            manifest = read_manifest(folder / name)
            if manifest is not None:
                yield Version(name, folder / name, manifest)

    def latest(self, stage: Stage) -> Version | None:
        """The version that `latest` points to; None where there is none, or it was removed."""
        link = self.stage_folder(stage) / "latest"
        if not link.is_symlink():
            return None
        folder = link.with_name(os.readlink(link))
        manifest = read_manifest(folder)
        return None if manifest is None else Version(folder.name, folder, manifest)

    def version(self, stage: Stage, name: str) -> Version:
        """A version by name.

        Raises:
            ArtifactError: when it was never published.
        """
        folder = self.stage_folder(stage) / name
        manifest = read_manifest(folder) if VERSION_NAME.fullmatch(name) else None
        if manifest is None:
            known = ", ".join(version.name for version in self.versions(stage)) or "none"
            raise ArtifactError(
                f"stage {stage.name} has no version {name!r} in {self.stage_folder(stage)}"
                f" (published: {known})",
                f"run it: `vlmpipe {stage.name}` with the same options",
                f"choose another: `--use {stage.name}=vNNN`",
            )
        return Version(name, folder, manifest)

    def with_fingerprint(self, stage: Stage, fingerprint: str) -> Version | None:
        """The newest version published under this fingerprint."""
        matches = (v for v in self.versions(stage) if v.manifest.fingerprint == fingerprint)
        return next(matches, None)

    def open_partial(self, stage: Stage, fingerprint: str) -> Path:
        """A folder to work in.

        What an attempt with the same fingerprint left is handed back for a resumable stage; of any
        other one, parts may still be of use: it is put aside until the stage is published.
        Leftovers of other stages are cleared away.
        """
        folder = self.stage_folder(stage)
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"*{PARTIAL_SUFFIX}"):
            mark = leftover / FINGERPRINT_MARK
            same = mark.is_file() and mark.read_text(encoding="utf-8").strip() == fingerprint
            if same and stage.resumable:
                return leftover
            if stage.resumable:
                shutil.rmtree(folder / LEFT_NAME, ignore_errors=True)
                leftover.rename(folder / LEFT_NAME)
            else:
                shutil.rmtree(leftover)
        partial = folder / f"{self._next_name(stage)}{PARTIAL_SUFFIX}"
        partial.mkdir()
        write_text(partial / FINGERPRINT_MARK, fingerprint + "\n")
        return partial

    def publish(self, stage: Stage, partial: Path) -> Version:
        """Rename a finished partial folder to its version and point `latest` at it."""
        sync_tree(partial)
        # Last, because a kill while the files are synced must leave what an attempt goes on from.
        (partial / FINGERPRINT_MARK).unlink(missing_ok=True)
        sync_path(partial)
        name = partial.name.removesuffix(PARTIAL_SUFFIX)
        final = partial.with_name(name)
        partial.rename(final)
        sync_path(final.parent)
        version = self.version(stage, name)
        self.point_latest(stage, name)
        shutil.rmtree(final.with_name(LEFT_NAME), ignore_errors=True)
        return version

    def point_latest(self, stage: Stage, name: str) -> None:
        """Make `latest` a relative link to a version, in one rename."""
        folder = self.stage_folder(stage)
        aside = folder / f".latest.tmp{os.getpid()}"
        aside.unlink(missing_ok=True)
        aside.symlink_to(name)
        aside.replace(folder / "latest")

    def _next_name(self, stage: Stage) -> str:
        return f"v{max(self._numbers(stage), default=0) + 1:03d}"

    def _numbers(self, stage: Stage) -> list[int]:
        names = (path.name for path in self.stage_folder(stage).glob("v*"))
        return [int(name[1:]) for name in names if VERSION_NAME.fullmatch(name)]
