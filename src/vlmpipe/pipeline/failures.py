"""What a failure is told with: the stage, where it logged, the command that goes on."""

from __future__ import annotations

import errno
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vlmpipe.errors import StageError, VlmpipeError


@contextmanager
def explained(stage: str, folder: Path, resume: Callable[[], str]) -> Iterator[None]:
    """Add to whatever fails in here: the stage, and the command that goes on afterwards.

    Raises:
        StageError: for a full disk; other foreign errors pass on with a note.
    """
    try:
        yield
    except VlmpipeError as exc:
        exc.remedies = (*exc.remedies, _go_on(resume, exc.remedies))
        exc.stage = stage
        raise
    except Exception as exc:
        if not is_disk_full(exc):
            exc.add_note(f"in stage {stage}")
            exc.add_note(_go_on(resume))
            raise
        error = disk_full(folder, *notes_of(exc), _go_on(resume))
        error.stage = stage
        raise error from exc


def is_disk_full(exc: BaseException) -> bool:
    """Whether the system said that there is no space, or no quota, left."""
    return isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(folder: Path, *more_remedies: str) -> StageError:
    """The error for a disk that filled up under `folder`."""
    usage = shutil.disk_usage(folder)
    return StageError(
        f"no space left on the disk of {folder} ({usage.free / 2**20:.0f} MiB free of"
        f" {usage.total / 2**20:.0f} MiB); what was published before is untouched",
        "free some space",
        "or write elsewhere: run.outputs_dir=DIR",
        *more_remedies,
    )


def notes_of(exc: BaseException) -> list[str]:
    """What was added to an exception on its way up."""
    return list(getattr(exc, "__notes__", []))


def _go_on(resume: Callable[[], str], remedies: Sequence[str] = ()) -> str:
    """The command, with a word on those of its settings that a remedy gives another value."""
    command = resume()
    given = [word.partition("=")[0] for word in shlex.split(command) if "." in word.split("=")[0]]
    changed = [key for key in given if any(f"{key}=" in remedy for remedy in remedies)]
    if changed:
        return f"then go on with this, with another value of {', '.join(changed)}: {command}"
    return f"then go on with: {command}"
