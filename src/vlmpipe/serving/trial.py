"""A worker driven without a gateway, to measure settings before a service is made of them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import psutil

from vlmpipe.errors import ToolError
from vlmpipe.serving.probe import Probe
from vlmpipe.serving.wire import Event
from vlmpipe.system.process import last_lines

STOP_GRACE_S = 10.0
ROUNDS = 3
BUDGET_S = 20.0
"""After this much answering no further answer is asked for; a slow model is measured once."""


@dataclass(frozen=True)
class Measurement:
    """What one setting came to, by its quickest answer: what else the machine did counts least."""

    threads: int
    n_ctx: int
    load_seconds: float
    answer_seconds: float
    first_token_seconds: float
    tokens_per_second: float
    memory_mib: float
    """Resident memory of the worker after its answers."""

    n_ctx_train: int
    """Tokens that the model was made for."""


class TrialWorker:
    """One worker process, used as a context manager."""

    def __init__(
        self, bundle: Path, log: Path, *, threads: int, n_ctx: int, timeout_s: float
    ) -> None:
        self._log = log
        self._timeout_s = timeout_s
        self._argv = [
            *(sys.executable, "-m", "vlmpipe.serving.worker", "--bundle", str(bundle)),
            *("--threads", str(threads), "--context", str(n_ctx)),
        ]

    def __enter__(self) -> TrialWorker:
        with self._log.open("ab") as log:
            self._begin = log.tell()
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def wait_until_ready(self) -> Event:
        """The `ready` event.

        Raises:
            ToolError: when the worker does not come up.
        """
        return self._read_until("ready")

    def ask(self, probe: Probe, max_new_tokens: int) -> Event:
        """The last event of an answer.

        Raises:
            ToolError: when the worker ends, hangs, or cannot answer.
        """
        assert self._process.stdin is not None
        line = probe.wire(max_new_tokens).model_dump_json(exclude_none=True)
        with suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        return self._read_until("done")

    @property
    def memory_mib(self) -> float:
        """Resident memory now."""
        return float(psutil.Process(self._process.pid).memory_info().rss) / 2**20

    def _read_until(self, kind: str) -> Event:
        assert self._process.stdout is not None
        watchdog = Timer(self._timeout_s, self._process.kill)
        watchdog.start()
        try:
            for line in self._process.stdout:
                event = Event.model_validate_json(line)
                if event.event == kind:
                    return event
                if event.event != "piece":
                    raise self._failure(f"answered `{event.event} {event.text}`")
        finally:
            watchdog.cancel()
        raise self._failure("ended or was stopped")

    def _failure(self, what: str) -> ToolError:
        return ToolError(
            f"the serving worker {what} before it was `ready` and had answered",
            "a slow machine may need longer: deploy.startup_timeout_s=N",
            f"its whole output: {self._log}",
            problems=last_lines(self._log, self._begin),
        )


def measure(
    bundle: Path,
    probes: Sequence[Probe],
    log: Path,
    *,
    threads: int,
    n_ctx: int,
    max_new_tokens: int,
    timeout_s: float,
) -> Measurement:
    """Load with these settings and answer the probes, after one answer that is not counted.

    Raises:
        ToolError: when the worker does not come up or does not answer.
    """
    started = time.perf_counter()
    with TrialWorker(bundle, log, threads=threads, n_ctx=n_ctx, timeout_s=timeout_s) as worker:
        ready = worker.wait_until_ready()
        loaded = time.perf_counter() - started
        worker.ask(probes[0], max_new_tokens)
        best = _quickest(worker, probes, max_new_tokens)
        memory = worker.memory_mib
    return Measurement(
        threads=threads,
        n_ctx=n_ctx,
        load_seconds=round(loaded, 4),
        answer_seconds=round(best.seconds, 6),
        first_token_seconds=round(best.first_token_seconds, 6),
        tokens_per_second=round(best.tokens_per_second, 3),
        memory_mib=round(memory, 1),
        n_ctx_train=ready.n_ctx_train,
    )


def _quickest(worker: TrialWorker, probes: Sequence[Probe], max_new_tokens: int) -> Event:
    started, answers = time.monotonic(), []
    for probe in [*probes] * ROUNDS:
        answers.append(worker.ask(probe, max_new_tokens))
        if time.monotonic() - started > BUDGET_S:
            break
    return min(answers, key=lambda answer: answer.seconds)
