"""One process of a training ended: what the others find out, and what the person reads.

A process that fails says why to the store that all of them share, before it goes. One that was
killed cannot; its launcher, where that is vlmpipe's own, leaves a note instead.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vlmpipe.errors import StageError, VlmpipeError
from vlmpipe.pipeline.failures import notes_of
from vlmpipe.training.distributed.processes import Processes

NOTES_FOLDER = "VLMPIPE_LAUNCH_NOTES"
"""Environment variable: where the launcher notes which process ended, and of what."""

NOTE_PATIENCE_S = 3.0
OUT_OF_MEMORY = (
    "SIGKILL is often the system's own, when memory ran out: take fewer processes, or less at once"
    " (train.batch_size=1, or a smaller train.batch_tokens=N)"
)
SIGNS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What torch's messages hold when a collective failed, for those that are plain RuntimeErrors."""


class PeerLostError(StageError):
    """Another process of this training is gone."""


@contextmanager
def losses_told(processes: Processes) -> Iterator[None]:
    """Say it for people when another process is gone, and to the others when this one fails.

    Raises:
        PeerLostError: with what the lost process said last, where it could.
    """
    if processes.world == 1:
        yield
        return
    try:
        yield
    except VlmpipeError as error:
        _tell(processes, error)
        raise
    except Exception as exc:
        if not is_loss(exc):
            _tell(processes, StageError(f"{type(exc).__name__}: {exc}", *notes_of(exc)))
            raise
        raise _loss(processes) from exc


def is_loss(exc: BaseException) -> bool:
    """Whether a collective failed, as it does when its other end is gone."""
    import torch.distributed as dist

    if isinstance(exc, dist.DistError):
        return True
    return isinstance(exc, RuntimeError) and any(sign in str(exc) for sign in SIGNS)


def note_of(folder: Path, rank: int) -> Path:
    """The launcher's note on how a process ended."""
    return folder / f"process-{rank}.ended"


def _tell(processes: Processes, error: VlmpipeError) -> None:
    with suppress(Exception):  # nobody may be left to hear it
        _store().set(_key(processes.rank), pickle.dumps((type(error), _parts(error))))


def _parts(error: VlmpipeError) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return error.message, error.remedies, error.problems


def _loss(processes: Processes) -> VlmpipeError:
    if not processes.is_first:
        return PeerLostError(f"process {processes.rank} was left by another one")
    others = range(1, processes.world)
    end = time.monotonic() + NOTE_PATIENCE_S
    while time.monotonic() < end:
        for rank in others:
            found = _said_by(processes, rank) or _noted_of(processes, rank)
            if found is not None:
                return found
        time.sleep(0.1)
    return PeerLostError(
        f"another process of this training is gone, of {processes.world} in all",
        "what the launcher printed says which one, and of what",
    )


def _said_by(processes: Processes, rank: int) -> VlmpipeError | None:
    with suppress(Exception):  # the store may have gone with its process
        store = _store()
        if store.check([_key(rank)]):
            kind, (message, remedies, problems) = pickle.loads(store.get(_key(rank)))
            where = f"process {rank} of {processes.world}: {message}"
            error: VlmpipeError = kind(where, *remedies, problems=problems)
            return error
    return None


def _noted_of(processes: Processes, rank: int) -> VlmpipeError | None:
    folder = os.environ.get(NOTES_FOLDER)
    if folder is None or not note_of(Path(folder), rank).is_file():
        return None
    lines = note_of(Path(folder), rank).read_text(encoding="utf-8").splitlines()
    return PeerLostError(
        f"process {rank} of {processes.world} {lines[0]}",
        OUT_OF_MEMORY,
        problems=lines[1:],
    )


def _key(rank: int) -> str:
    return f"vlmpipe/failed/{rank}"


def _store() -> Any:
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()
