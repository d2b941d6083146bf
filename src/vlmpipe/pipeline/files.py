"""Files written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write aside, fsync, rename: a reader sees the old text or the new one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """What `write_text` does, for any content."""
    aside = path.with_name(f".{path.name}.tmp{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with aside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, written as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sync_tree(folder: Path) -> None:
    """fsync every file and folder, so that a rename afterwards publishes what is on the disk."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir() or (path.is_file() and not path.is_symlink()):
            sync_path(path)


def sync_path(path: Path) -> None:
    """fsync one file, or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def why_unreadable(error: OSError | ValidationError) -> str:
    """One line for a person: the system's reason, or the first field at fault with its value."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    detail = error.errors(include_url=False)[0]
    field, value = ".".join(str(part) for part in detail["loc"]), repr(detail["input"])
    shown = value if len(value) <= 60 else f"{value[:60]}…"
    return f"{field}: {detail['msg']}, got {shown}" if field else detail["msg"]
