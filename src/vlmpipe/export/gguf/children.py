"""Programs of this room that run in processes of their own: `child_*.py`."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmpipe.errors import ToolError
from vlmpipe.system.process import run_program

FULL_BELOW_BYTES = 1 << 20
"""With less than this free after a failure, the disk was the cause: llama.cpp does not say so."""


def run_child(
    child: str, order: Mapping[str, Any], *, folder: Path, log: Path, what: str, remedy: str
) -> None:
    """Run a program that writes into `folder`; its one argument is a file that holds `order`.

    A file, because a contract can be longer than an argument may be. A full disk is told apart
    from a fault of the tool.

    Raises:
        ToolError: with the last lines and the log.
        OSError: ENOSPC when the disk is full.
    """
    program = Path(__file__).parent / "programs" / child
    if not program.is_file():
        raise ToolError(
            f"{program} is missing: the installation is not complete", "run `make setup`"
        )
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as stream:
        json.dump(order, stream)
        stream.flush()
        try:
            run_program(
                [sys.executable, program, stream.name],
                what=what,
                log=log,
                env={"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"},
                remedies=(remedy,),
            )
        except ToolError as exc:
            if shutil.disk_usage(folder).free < FULL_BELOW_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what) from exc
            raise
