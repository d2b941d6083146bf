"""One request at the engine, a bounded number waiting, time limits, clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

import serving_fakes as fakes
from serving_fakes import ScriptedBackend
from vlmpipe.serving.admission import Admission
from vlmpipe.serving.app import create_app
from vlmpipe.serving.problems import ApiError

BODY = {"messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def gateway(backend: ScriptedBackend, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application itself, without a socket."""
    transport = httpx.ASGITransport(app=create_app(fakes.settings(**settings), backend))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


def ask(client: httpx.AsyncClient) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(client.post("/v1/chat/completions", json=BODY))


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():
            await asyncio.sleep(0.01)


async def gauge(client: httpx.AsyncClient, name: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def test_one_request_too_many_is_told_when_to_come_back() -> None:
    async def scenario() -> None:
        backend = ScriptedBackend()
        backend.gate = asyncio.Event()
        async with gateway(backend, max_queue=1) as client:
            first = ask(client)
            await until(lambda: _at_least(client, "vlmpipe_requests_running", 1))
            second = ask(client)
            await until(lambda: _at_least(client, "vlmpipe_requests_waiting", 1))
            third = await ask(client)
            assert third.status_code == 429
            assert third.json()["error"]["code"] == "queue_full"
            assert int(third.headers["retry-after"]) >= 1
            assert len(backend.requests) == 1
            backend.gate.set()
            assert [(await each).status_code for each in (first, second)] == [200, 200]
            assert await gauge(client, "vlmpipe_requests_running") == 0

    asyncio.run(scenario())


async def _at_least(client: httpx.AsyncClient, name: str, value: float) -> bool:
    return await gauge(client, name) >= value


def test_a_request_that_takes_too_long_is_given_up_and_the_next_one_served() -> None:
    async def scenario() -> None:
        backend = ScriptedBackend()
        backend.gate = asyncio.Event()
        async with gateway(backend, request_timeout_s=0.2) as client:
            late = await ask(client)
            assert late.status_code == 504
            assert backend.given_up == 1
            backend.gate.set()
            assert (await ask(client)).status_code == 200

    asyncio.run(scenario())


def test_a_stream_that_stops_half_way_ends_with_an_error_and_without_done() -> None:
    class Halting(ScriptedBackend):
        async def generate(self, request: Any) -> Any:
            async for event in super().generate(request):
                yield event
                await asyncio.sleep(60)

    async def scenario() -> None:
        async with gateway(Halting(), request_timeout_s=0.3) as client:
            response = await client.post("/v1/chat/completions", json={**BODY, "stream": True})
            assert response.status_code == 200
            lines = [line for line in response.text.splitlines() if line]
            assert '"code": "timeout"' in lines[-1]
            assert "[DONE]" not in response.text

    asyncio.run(scenario())


def test_waiting_requests_are_served_in_the_order_in_which_they_came() -> None:
    async def scenario() -> None:
        admission, served = Admission(max_queue=5), []

        async def take(number: int) -> None:
            async with admission.turn():
                served.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(take(number) for number in range(5)))
        assert served == [0, 1, 2, 3, 4]
        assert (admission.running, admission.waiting) == (0, 0)

    asyncio.run(scenario())


def test_who_stops_waiting_frees_a_place() -> None:
    async def scenario() -> None:
        admission, leave = Admission(max_queue=1), asyncio.Event()

        async def take() -> None:
            async with admission.turn():
                await leave.wait()

        running = asyncio.create_task(take())
        await asyncio.sleep(0)
        waiting = asyncio.create_task(take())
        await asyncio.sleep(0)
        with pytest.raises(ApiError):
            await take()
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        assert admission.waiting == 0
        leave.set()
        await running
        await take()

    asyncio.run(scenario())
