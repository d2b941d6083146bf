"""A command in several processes that meet as a launcher has them meet."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile

HERE = Path(__file__).resolve().parent
PATIENCE_S = 240
"""A process that hangs fails its test."""


def launched(
    argv: Sequence[str], processes: int, settings: Mapping[str, str] | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """The command in so many processes, by rank, when all have ended."""
    common = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", **(settings or {})}
    if processes > 1:
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        common |= {"WORLD_SIZE": str(processes)}
    running = [_start(argv, common, rank) for rank in range(processes)]
    return [_end(argv, *each) for each in running]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _start(argv, common, rank):
    out, err = TemporaryFile("w+"), TemporaryFile("w+")
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if "WORLD_SIZE" in common else {}
    process = subprocess.Popen(argv, env={**common, **place}, stdout=out, stderr=err)
    return process, out, err


def _end(argv, process, out, err):
    try:
        code = process.wait(PATIENCE_S)
    finally:
        process.kill()
    texts = []
    for stream in (out, err):
        stream.seek(0)
        texts.append(stream.read())
        stream.close()
    return subprocess.CompletedProcess(argv, code, *texts)
