"""Sizes and digests of a bundle's files, kept in its settings and held against it at the start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from vlmpipe.pipeline.files import sha256_of


class FileDigest(BaseModel):
    """What one file is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    """Bytes."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @classmethod
    def of(cls, path: Path) -> FileDigest:
        """Of a file as it lies on the disk now."""
        return cls(size=path.stat().st_size, sha256=sha256_of(path))


def size_problems(folder: Path, files: Mapping[str, FileDigest]) -> list[str]:
    """One line for each file that is missing or of another size: costs nothing."""
    found = []
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif (size := path.stat().st_size) != expected.size:
            found.append(f"{name} has {size} bytes, {expected.size} were deployed")
    return found


def digest_problems(folder: Path, files: Mapping[str, FileDigest]) -> list[str]:
    """One line for each file of other bytes: reads all of them, about a second a GiB."""
    found = []
    for name, expected in files.items():
        sha256 = sha256_of(folder / name)
        if sha256 != expected.sha256:
            found.append(f"{name} has sha256 {sha256[:12]}…, {expected.sha256[:12]}… was deployed")
    return found
