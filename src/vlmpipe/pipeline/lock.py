"""One lock a run: two invocations never write the same outputs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from vlmpipe.errors import LockError
from vlmpipe.pipeline.files import write_json


@contextmanager
def run_lock(run_folder: Path, command: str) -> Iterator[None]:
    """Hold the run's lock; the kernel frees it when the process dies, however it dies.

    Raises:
        LockError: saying who holds it.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(run_folder / ".lock", timeout=0), run_folder / ".lock.holder.json"
    try:
        lock.acquire()
    except Timeout as exc:
        raise LockError(
            f"the run {run_folder} is in use: {_describe_holder(holder)}",
            "wait until it ends, or stop it",
            "or give this run a name of its own: run.name=NAME",
        ) from exc
    try:
        write_json(
            holder,
            {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": command,
            },
        )
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return (
            f"process {holder['pid']} on {holder['host']} holds its lock since"
            f" {holder['since']} (`{holder['command']}`)"
        )
    except (OSError, ValueError, KeyError):
        return "another process holds its lock"
