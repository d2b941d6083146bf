"""Every error that vlmpipe raises on purpose.

    VlmpipeError
    ├── ConfigError          2   the configuration cannot be used
    ├── CheckError           3   the machine lacks something that this run requires
    ├── ArtifactError        4   a published or given artifact is missing or corrupt
    ├── StageError           5   a stage could not do its work
    │   └── BadSamplesError  5   samples that cannot be used, all listed
    ├── ToolError            6   a program outside this package failed
    ├── GateError            7   a quality gate refused what it was given
    └── LockError            8   another run holds the lock

An error owns its message, its remedies and its exit code. Anything else that is raised is a bug
and is allowed to crash. An interrupt by the user exits with 130.
"""

from __future__ import annotations

from collections.abc import Sequence


class VlmpipeError(Exception):
    """Base of all expected errors.

    `message` says what is wrong, with the value; `problems` lists the single faults where there
    are several; `remedies` lists every way out, each with the exact flag, key or command.
    """

    exit_code = 1
    stage: str | None = None
    """Name of the stage that was running, where there was one."""

    def __init__(self, message: str, *remedies: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.remedies: tuple[str, ...] = remedies
        self.problems: tuple[str, ...] = tuple(problems)

    def __str__(self) -> str:
        problems = (f"  - {problem}" for problem in self.problems)
        remedies = (f"  -> {remedy}" for remedy in self.remedies)
        return "\n".join([self.message, *problems, *remedies])


class ConfigError(VlmpipeError):
    """The configuration cannot be used; all of its faults are listed together."""

    exit_code = 2


class CheckError(VlmpipeError):
    """The machine lacks something that this configuration requires."""

    exit_code = 3


class ArtifactError(VlmpipeError):
    """A published or given artifact is missing or corrupt."""

    exit_code = 4


class StageError(VlmpipeError):
    """A stage could not do its work."""

    exit_code = 5


class BadSamplesError(StageError):
    """Samples that cannot be used, each named by file and line."""


class ToolError(VlmpipeError):
    """A program outside this package failed."""

    exit_code = 6


class GateError(VlmpipeError):
    """A quality gate refused what it was given."""

    exit_code = 7


class LockError(VlmpipeError):
    """Another process holds the lock of this run."""

    exit_code = 8


class InterruptError(VlmpipeError):
    """The person, or the system, told the program to stop."""

    exit_code = 130
