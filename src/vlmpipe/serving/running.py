"""A gateway started as a program of its own, for as long as a `with` block lasts."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from vlmpipe.errors import StageError, ToolError
from vlmpipe.serving.run import bind, url_of
from vlmpipe.system.process import last_lines

POLL_S = 0.1
STOP_GRACE_S = 30.0


class RunningService:
    """`python -m vlmpipe.serving` on a free loopback port.

    The socket is bound here and handed over, so that no other program can take the port between
    choosing it and serving on it.
    """

    def __init__(self, bundle: Path, log: Path, *, timeout_s: float) -> None:
        self._bundle = bundle
        self._log = log
        self._timeout_s = timeout_s
        self.exit_code: int | None = None
        """Set when the service has been stopped."""

    def __enter__(self) -> RunningService:
        listening = bind("127.0.0.1", 0)
        self.url = url_of(listening)
        argv = [
            *(sys.executable, "-m", "vlmpipe.serving", "--bundle", str(self._bundle)),
            *("--fd", str(listening.fileno()), "--worker-log", str(self._log), "--attached"),
        ]
        with listening, self._log.open("ab") as log:
            self._begin = log.tell()
            self.process = subprocess.Popen(
                argv,
                pass_fds=[listening.fileno()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self) -> float:
        """Seconds until `/health` said so.

        Raises:
            StageError: when it fails, ends, or takes longer than the timeout.
        """
        started = time.monotonic()
        while time.monotonic() - started < self._timeout_s:
            if self.process.poll() is not None:
                raise self._not_ready(f"ended with exit code {self.process.returncode}")
            status = self._status()
            if status == "ready":
                return time.monotonic() - started
            if status == "failed":
                raise self._not_ready("could not load the model")
            time.sleep(POLL_S)
        raise self._not_ready(f"was not ready within {self._timeout_s:g} s")

    def stop(self) -> int:
        """Ask it to drain and end; its exit code.

        Raises:
            ToolError: when it had to be killed.
        """
        if self.exit_code is not None:
            return self.exit_code
        self.process.terminate()
        try:
            self.exit_code = self.process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired as exc:
            self.process.kill()
            self.exit_code = self.process.wait()
            raise ToolError(
                f"the service did not stop within {STOP_GRACE_S:g} s and was killed",
                f"its output: {self._log}",
            ) from exc
        finally:
            if self.process.stdin is not None:
                with suppress(OSError):
                    self.process.stdin.close()
        return self.exit_code

    def _status(self) -> str:
        import httpx

        try:
            return str(httpx.get(f"{self.url}/health", timeout=5.0).json().get("status"))
        except (httpx.HTTPError, ValueError):
            return "unreachable"

    def _not_ready(self, what: str) -> StageError:
        return StageError(
            f"the service {what}",
            "give it longer: deploy.startup_timeout_s=N",
            f"its whole output: {self._log}",
            problems=last_lines(self._log, self._begin),
        )
