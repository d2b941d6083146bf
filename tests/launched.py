"""A command in several processes that meet as a launcher has them meet."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATIENCE_S = 540
"""A process that hangs fails its test."""


def launched(
    argv: Sequence[str], processes: int, settings: Mapping[str, str] | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """The command in so many processes, by rank, when all have ended."""
    common = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", **(settings or {})}
    if processes > 1:
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        common |= {"WORLD_SIZE": str(processes)}

    def one(rank: int) -> subprocess.CompletedProcess[str]:
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        return subprocess.run(
            argv,
            env={**common, **place},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(one, range(processes)))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
