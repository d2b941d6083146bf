"""How long a server is waited for that is away, by one thread and by several."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier

import pytest

from faulty_server import FaultyServer, faulty_server
from vlmpipe.engines.in_flight import in_order
from vlmpipe.engines.openai_server import OpenAIServer
from vlmpipe.errors import ToolError

NOWHERE = "http://127.0.0.1:9/v1"
WORKERS = 4
PATCHED_CLOCK = "vlmpipe.engines.patience.monotonic"


class Waiting:
    """Waits of all workers together, that take no time but by this clock; each round calls
    `after` with its number.
    """

    def __init__(self, server: OpenAIServer, patch: pytest.MonkeyPatch, workers: int = 1) -> None:
        self.after: Callable[[int], None] = lambda _: None
        self.rounds: list[float] = []
        self._asked_s = 0.0
        self._together = Barrier(workers, self._round, timeout=60)
        patch.setattr(PATCHED_CLOCK, lambda: sum(self.rounds))
        patch.setattr(server._given_up, "wait", self._wait)

    def _wait(self, wait_s: float) -> bool:
        self._asked_s = wait_s
        self._together.wait()
        return False

    def _round(self) -> None:
        self.rounds.append(self._asked_s)
        self.after(len(self.rounds))


def ask_often(server: OpenAIServer, times: int) -> list[str]:
    """`there` or `away` for each question, asked by several workers."""

    def ask(_: int) -> str:
        try:
            server.get("/v1/models")
        except ToolError as error:
            return "away" if "cannot be reached" in error.message else error.message
        return "there"

    return list(in_order(ask, range(times), WORKERS))


def move(server: OpenAIServer, to: FaultyServer) -> None:
    server.root = to.url.removesuffix("/v1")


def test_a_server_that_restarts_fails_nothing_however_many_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = OpenAIServer(NOWHERE, retries=4)
    waiting = Waiting(server, monkeypatch, WORKERS)
    with faulty_server() as back:
        waiting.after = lambda number: move(server, back) if number == 3 else None
        assert ask_often(server, 24) == ["there"] * 24
    assert waiting.rounds == [0.5, 1.0, 2.0]


def test_a_dead_server_is_waited_for_once_and_by_none_of_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = OpenAIServer(NOWHERE, retries=9)
    waiting = Waiting(server, monkeypatch, WORKERS)
    assert ask_often(server, 40) == ["away"] * 40
    assert waiting.rounds == [0.5, 1.0, 2.0, 4.0]


def test_a_dead_server_is_used_and_waited_for_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = OpenAIServer(NOWHERE, retries=9)
    waiting = Waiting(server, monkeypatch)
    for _ in range(3):
        with pytest.raises(ToolError, match="cannot be reached"):
            server.get("/v1/models")
    assert waiting.rounds == [0.5, 1.0, 2.0, 4.0]
    gone = server.root
    with faulty_server() as back:
        move(server, back)
        assert server.served(None).name == "tiny"
    server.root = gone
    with pytest.raises(ToolError, match="cannot be reached"):
        server.get("/v1/models")
    assert waiting.rounds == [0.5, 1.0, 2.0, 4.0] * 2


def test_few_retries_do_not_make_a_server_dead_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    server = OpenAIServer(NOWHERE, retries=1)
    waiting = Waiting(server, monkeypatch)
    for _ in range(30):
        with pytest.raises(ToolError, match="cannot be reached"):
            server.get("/v1/models")
    assert waiting.rounds == [0.5] * 15


def test_waits_are_bounded_for_any_number_of_retries() -> None:
    server = OpenAIServer(NOWHERE, retries=1100)
    patience = server._patience
    waits = [patience._backoff(number) for number in range(1100)]
    assert waits[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert set(waits[6:]) == {8.0}
