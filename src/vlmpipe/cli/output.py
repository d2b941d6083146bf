"""What `--json` promises: one object on stdout, and nothing else there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import typer

from vlmpipe.errors import VlmpipeError


def print_json(value: dict[str, Any]) -> None:
    """The one object."""
    typer.echo(json.dumps(value))


def error_as_json(error: VlmpipeError) -> dict[str, Any]:
    """An expected error in the form that every command gives it."""
    fault = {
        "kind": type(error).__name__,
        "exit_code": error.exit_code,
        "stage": error.stage,
        "message": error.message,
        "problems": list(error.problems),
        "remedies": list(error.remedies),
    }
    return {"error": fault}


@contextmanager
def stdout_reserved(reserved: bool) -> Iterator[None]:
    """What anything prints in here, C libraries and child processes too, goes to stderr."""
    if not reserved:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
