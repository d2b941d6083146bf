"""Outside programs: run to the end with a log, or asked for one quick answer."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vlmpipe.errors import ToolError

LAST_LINES = 12
"""Lines of a failed program's output that its error repeats."""

WATCH_EVERY_S = 0.5


def run_program(
    argv: Sequence[str | Path],
    *,
    what: str,
    log: Path,
    timeout_s: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    remedies: Sequence[str] = (),
    watch: Callable[[], None] | None = None,
) -> None:
    """Run a program to its end, its output appended to `log`.

    `what` names the work in the error; `env` is laid over this process's environment; `watch` is
    called, in this thread, every half second while the program runs. Whatever ends this process
    ends the program and its children too.

    Raises:
        ToolError: with the last lines and the log's path, when the program is not there, fails,
            or runs longer than `timeout_s`.
    """
    words = [os.fspath(word) for word in argv]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        stream.write(f"$ {shlex.join(words)}\n".encode())
        stream.flush()
        begin = stream.tell()
        try:
            process = subprocess.Popen(
                [*_dies_with_parent(), *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **env} if env else None,
                start_new_session=True,
            )
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise ToolError(f"{what}: cannot run {words[0]}: {reason}", *remedies) from exc
        fault = _wait(process, timeout_s, watch)
    if fault:
        raise ToolError(
            f"{what}: {Path(words[0]).name} {fault}",
            *remedies,
            f"its whole output: {log}",
            problems=last_lines(log, begin),
        )


def _wait(
    process: subprocess.Popen[bytes], timeout_s: float | None, watch: Callable[[], None] | None
) -> str | None:
    """What went wrong, None when the program ended well."""
    try:
        code = _watched(process, timeout_s, watch) if watch else process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return f"did not end within {timeout_s:g} s and was stopped"
    finally:
        stop_group(process)
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}" if code else None


def _watched(
    process: subprocess.Popen[bytes], timeout_s: float | None, watch: Callable[[], None]
) -> int:
    end = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    while True:
        watch()
        try:
            return process.wait(min(WATCH_EVERY_S, max(end - time.monotonic(), 0.0)))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end:
                raise


def stop_group(process: subprocess.Popen[bytes], grace_s: float = 5.0) -> None:
    """End a program started in a session of its own, and its children; SIGKILL after `grace_s`."""
    if process.poll() is not None:
        return
    _signal_group(process, signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _dies_with_parent() -> list[str]:
    """A prefix that ends the program when this process is killed outright.

    Without it a converter outlives a `kill -9` and goes on writing into a folder that the next
    run clears away.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def last_lines(log: Path, begin: int = 0, count: int = LAST_LINES) -> list[str]:
    """The last lines of a log from byte `begin` on, blank ones left out."""
    with log.open("rb") as stream:
        stream.seek(begin)
        text = stream.read().decode("utf-8", errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def answer_of(argv: Sequence[str | Path], timeout_s: float = 10.0) -> str | None:
    """Standard output of a quick program; None when it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            [os.fspath(word) for word in argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")
