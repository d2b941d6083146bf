"""An Ollama server that is lost, slow or dead, as the engine and its samples see it."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

import faulty_server as faulty
from export_models import contract_of
from faulty_server import FaultyServer, faulty_server
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.answering import answers
from vlmpipe.engines.base import Completion
from vlmpipe.engines.ollama import OllamaEngine
from vlmpipe.engines.ollama_api import OllamaApi


def saying(text: str) -> faulty.Deed:
    """An answer of /api/chat."""
    content = {"message": {"content": text}, "done_reason": "stop", "eval_count": 2}
    return lambda handler: faulty.send_json(handler, content)


def ask(server: FaultyServer, *texts: str, waits: list[float], **options: Any) -> list[str]:
    """What becomes of each text; `waits` grows with the waits in between, none of them taken."""
    with OllamaApi(server.url.removesuffix("/v1"), **options) as api:
        pytest.MonkeyPatch().setattr(api._patience._given_up, "wait", waits.append)
        with closing(OllamaEngine(api, "tiny", contract_of("qwen3"))) as engine:
            asked = [[Message("user", (text,))] for text in texts]
            found = answers(engine, asked, max_new_tokens=8)
            return [
                each.text if isinstance(each, Completion) else f"failed: {each.message}"
                for each in found
            ]


def test_a_lost_connection_is_tried_again() -> None:
    waits: list[float] = []
    with faulty_server(a=[faulty.drop, faulty.drop, saying("back")]) as server:
        assert ask(server, "a", waits=waits) == ["back"]
    assert waits == [0.5, 1.0]


def test_one_that_is_lost_again_and_again_fails_alone() -> None:
    with faulty_server(a=[faulty.drop] * 9, b=[saying("fine")]) as server:
        bad, good = ask(server, "a", "b", waits=[], retries=2)
        assert server.texts().count("a") == 3
    assert bad.startswith("failed: /api/chat: ")
    assert good == "fine"


def test_an_answer_that_takes_too_long_fails_alone_and_is_not_asked_for_again() -> None:
    with faulty_server(a=[faulty.hang] * 3, b=[saying("fine")]) as server:
        bad, good = ask(server, "a", "b", waits=[], timeout_s=0.3)
        assert server.texts().count("a") == 1
    assert "timed out" in bad
    assert good == "fine"


def test_a_server_that_died_is_not_waited_for_at_every_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("vlmpipe.engines.patience.monotonic", lambda: sum(waits))
    with faulty_server() as server:
        server.die()
        found = ask(server, *"abcdefgh", waits=waits)
    assert all(each.startswith("failed: /api/chat: ") for each in found)
    assert len(set(found)) == 1
    assert waits == [0.5, 1.0, 2.0, 4.0]
