"""The gateway's side of the worker: started, watched, restarted, spoken to, stopped."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol

from pydantic import ValidationError

from vlmpipe.serving.problems import engine_died, engine_failed, not_ready
from vlmpipe.serving.wire import Event, WireRequest

State = Literal["loading", "ready", "failed", "stopped"]

START_ATTEMPTS = 3
"""Failures to load in a row after which the service says that it has failed."""

CANCEL_GRACE_S = 5.0
"""How long a worker may take to let go of a request that was given up; then it is replaced."""

STOP_GRACE_S = 5.0
_LINE_LIMIT = 1 << 20
_LOG = logging.getLogger("vlmpipe.serving")


class Backend(Protocol):
    """What answers requests behind the gateway, one at a time."""

    @property
    def state(self) -> State:
        """Whether it can be asked."""

    @property
    def restarts(self) -> int:
        """How often it had to be started again."""

    async def start(self) -> None:
        """Begin to load; returns before the model is loaded."""

    async def stop(self) -> None:
        """End, whatever is under way."""

    def generate(self, request: WireRequest) -> AsyncGenerator[Event, None]:
        """`piece` events and a last one.

        Raises:
            ApiError: when it is not ready, or ends under the request.
        """


class WorkerBackend:
    """A worker process, replaced when it dies."""

    def __init__(
        self,
        bundle: Path,
        log_path: Path | None = None,
        on_state: Callable[[str], None] | None = None,
    ) -> None:
        self._bundle = bundle
        self._log_path = log_path
        self._on_state = on_state
        self._process: asyncio.subprocess.Process | None = None
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._engine = asyncio.Lock()
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._state: State = "stopped"
        self.restarts = 0

    @property
    def state(self) -> State:
        """Whether it can be asked."""
        return self._state

    def _enter(self, state: State) -> None:
        if state != self._state and self._on_state is not None:
            self._on_state(state)
        self._state = state

    async def start(self) -> None:
        """Begin to load; returns before the model is loaded."""
        self._enter("loading")
        self._background(self._supervise())

    async def stop(self) -> None:
        """End the worker, whatever is under way."""
        self._enter("stopped")
        process = self._process
        if process is not None and process.returncode is None:
            if process.stdin is not None:
                process.stdin.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_GRACE_S)
            _kill(process)
        for task in tuple(self._tasks):
            task.cancel()

    async def generate(self, request: WireRequest) -> AsyncGenerator[Event, None]:
        """`piece` events and a last one; leaving early gives the request up.

        Raises:
            ApiError: when the worker is not ready, or ends under the request.
        """
        self._refuse_unless_ready()
        await self._engine.acquire()
        try:
            self._refuse_unless_ready()  # it may have died while this request waited
        except BaseException:
            self._engine.release()
            raise
        numbered = request.model_copy(update={"id": next(self._ids)})
        finished = False
        try:
            await self._send(numbered.model_dump_json(exclude_none=True))
            async for event in self._events_of(numbered.id):
                finished = event.event != "piece"
                yield event
        except (ConnectionError, RuntimeError) as exc:
            finished = True
            raise engine_died() from exc
        finally:
            if finished or self.state != "ready":
                self._engine.release()
            else:
                self._background(self._give_up(numbered.id))

    def _refuse_unless_ready(self) -> None:
        if self.state != "ready":
            raise not_ready()

    async def _events_of(self, request_id: int) -> AsyncIterator[Event]:
        """Events of one request; what an earlier one left is passed over."""
        while True:
            event = await self._events.get()
            if event is None:
                raise ConnectionError("the worker ended")
            if event.id != request_id:
                continue
            if event.event == "failed":
                yield event
                raise engine_failed()
            yield event
            if event.event != "piece":
                return

    async def _give_up(self, request_id: int) -> None:
        """Cancel a request and free the engine once the worker is free, or is a new one."""
        process = self._process
        try:
            async with asyncio.timeout(CANCEL_GRACE_S):
                await self._send(json.dumps({"cancel": request_id}))
                async for _ in self._events_of(request_id):
                    pass
        except TimeoutError:
            _LOG.warning("the worker did not let go of a request; it is replaced")
            if process is not None:
                _kill(process)
        except Exception:  # it died: the supervisor starts another
            _LOG.info("the worker ended while a request was given up")
        finally:
            self._engine.release()

    async def _send(self, line: str) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise ConnectionError("there is no worker")
        process.stdin.write(line.encode() + b"\n")
        await process.stdin.drain()

    async def _supervise(self) -> None:
        """Start a worker, read from it until it ends, start the next."""
        failures = 0
        while failures < START_ATTEMPTS:
            was_ready = await self._run_worker()
            if self.state == "stopped":
                return
            self._enter("loading")
            self.restarts += 1
            failures = 0 if was_ready else failures + 1
            _LOG.warning("the worker ended; attempt %d to start another", failures + 1)
            await asyncio.sleep(min(0.2 * 2**failures, 5.0))
        self._enter("failed")
        _LOG.error("the worker could not load the model %d times in a row", START_ATTEMPTS)

    async def _run_worker(self) -> bool:
        """One worker's life; whether it ever became ready."""
        was_ready = False
        self._process = process = await self._spawn()
        assert process.stdout is not None
        while line := await process.stdout.readline():
            event = _parse(line)
            if event is None:
                continue
            if event.event == "ready":
                was_ready = True
                self._events = asyncio.Queue()
                self._enter("ready")
            else:
                self._events.put_nowait(event)
        await process.wait()
        if self.state == "ready":
            self._enter("loading")
        self._events.put_nowait(None)
        return was_ready

    async def _spawn(self) -> asyncio.subprocess.Process:
        argv = [sys.executable, "-m", "vlmpipe.serving.worker", "--bundle", str(self._bundle)]
        log = self._log_path.open("ab") if self._log_path else None
        try:
            return await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_LINE_LIMIT,
                # Ctrl-C in a terminal reaches the whole group; the gateway drains first.
                start_new_session=True,
            )
        finally:
            if log is not None:
                log.close()

    def _background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _parse(line: bytes) -> Event | None:
    try:
        return Event.model_validate_json(line)
    except ValidationError:
        _LOG.warning("the worker wrote a line that is no event")
        return None


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
