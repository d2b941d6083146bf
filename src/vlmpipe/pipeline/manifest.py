"""manifest.json: what a published version is, and the proof that it is still that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vlmpipe.errors import ArtifactError
from vlmpipe.pipeline.files import sha256_of, why_unreadable, write_text

MANIFEST_NAME = "manifest.json"
SCHEMA = 1


class FileRecord(BaseModel):
    """A published file: its digest, and the marks that say whether to hash it again."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Record of a file as it lies on the disk now."""
        stat = path.stat()
        return cls(
            sha256=sha256_of(path),
            size=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            inode=stat.st_ino,
        )

    def looks_untouched(self, path: Path) -> bool:
        """Whether size, mtime and inode are those recorded."""
        stat = path.stat()
        marks = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        return marks == (self.size, self.mtime_ns, self.inode)


class VerdictRecord(BaseModel):
    """A gate's verdict, the mode it was computed under, and why it failed."""

    passed: bool
    mode: str
    reasons: list[str] = []


class Manifest(BaseModel):
    """Written last: a folder without one was never published."""

    schema_version: int = SCHEMA
    stage: str
    number: int
    fingerprint: str
    fingerprint_parts: dict[str, Any]
    settings: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    """For each upstream stage: version, fingerprint and the sha256 of the files consumed."""

    outputs: dict[str, FileRecord]
    verdict: VerdictRecord | None = None
    """Recorded whatever the mode, so that a gate switched on later has something to hold."""

    gates: dict[str, dict[str, Any]] = {}
    """For each gating stage: whether it passed, its mode, and what let a failure through."""

    metrics: dict[str, float] = {}
    summary: list[str] = []
    facts: dict[str, Any] = {}
    timings: dict[str, Any] = {}
    argv: list[str] = []
    git_commit: str | None = None

    def write(self, folder: Path) -> None:
        """Write aside and rename, so that a manifest is whole or absent."""
        write_text(folder / MANIFEST_NAME, self.model_dump_json(indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a version folder, None where it was never published.

    Raises:
        ArtifactError: when there is one that cannot be read.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtifactError(
            f"{path} is damaged: {why_unreadable(exc)}",
            f"remove the folder {folder} and run the stage again",
        ) from exc


def verify_outputs(folder: Path, manifest: Manifest, *, thorough: bool) -> None:
    """Hold the files of a version against its manifest.

    Raises:
        ArtifactError: naming each file that is missing or differs.
    """
    problems = problems_of(folder, manifest, thorough=thorough)
    if problems:
        raise ArtifactError(
            f"stage {manifest.stage} {folder.name} is not what was published",
            f"make it again: `vlmpipe run-all --force {manifest.stage}` with the same options",
            f"or go back to another version: `--use {manifest.stage}=vNNN`",
            problems=problems,
        )


def problems_of(folder: Path, manifest: Manifest, *, thorough: bool) -> list[str]:
    """One line for each file that is missing or differs from what was published.

    A file whose size, mtime and inode are as recorded is hashed only when `thorough`.
    """
    found = (
        (name, _problem_with(folder / name, record, thorough))
        for name, record in manifest.outputs.items()
    )
    return [f"{os.path.relpath(folder / name)}: {problem}" for name, problem in found if problem]


def _problem_with(path: Path, record: FileRecord, thorough: bool) -> str | None:
    try:
        if not thorough and record.looks_untouched(path):
            return None
        found = sha256_of(path)
    except FileNotFoundError:
        return "missing"
    except OSError as exc:
        return f"cannot be read: {exc.strerror}"
    if found != record.sha256:
        return f"sha256 {found[:12]}… where {record.sha256[:12]}… was published"
    return None
