"""One lock a run: two invocations never write the same outputs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from vlmpipe.errors import ConfigError, LockError
from vlmpipe.pipeline.failures import disk_full, is_disk_full
from vlmpipe.pipeline.files import write_json


@contextmanager
def run_lock(run_folder: Path, command: str) -> Iterator[None]:
    """Hold the run's lock; the kernel frees it when the process dies, however it dies.

    Raises:
        LockError: saying who holds it.
        ConfigError: when the run's folder cannot be written.
    """
    lock = _acquire(run_folder)
    holder = run_folder / ".lock.holder.json"
    try:
        with suppress(OSError):  # tells others who holds the lock; the lock itself is held
            write_json(holder, _myself(command))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _acquire(run_folder: Path) -> FileLock:
    lock = FileLock(run_folder / ".lock", timeout=0)
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as exc:
        raise LockError(
            f"the run {run_folder} is in use: {_describe(run_folder / '.lock.holder.json')}",
            "wait until it ends, or stop it",
            "or give this run a name of its own: run.name=NAME",
        ) from exc
    except OSError as exc:
        if is_disk_full(exc):
            raise disk_full(_existing(run_folder)) from exc
        raise ConfigError(
            f"cannot write to the run's folder {run_folder}: {exc.strerror or exc}",
            "choose another place: run.outputs_dir=DIR",
        ) from exc
    return lock


def _myself(command: str) -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def _describe(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return (
            f"process {holder['pid']} on {holder['host']} holds its lock since"
            f" {holder['since']} (`{holder['command']}`)"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process holds its lock"


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
