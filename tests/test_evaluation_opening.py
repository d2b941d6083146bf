"""Which key a server is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from export_models import contract_of
from vlmpipe.errors import ConfigError, VlmpipeError
from vlmpipe.evaluation.systems import Asking
from vlmpipe.evaluation.systems.opening import open_openai

KEY = "sk-of-another-service"


@contextmanager
def noting_keys() -> Iterator[tuple[str, list[str]]]:
    """A server that knows no route, its address, and what `Authorization` it was sent."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


def keys_sent(asking: Asking) -> list[str]:
    with noting_keys() as (url, seen):
        with pytest.raises(VlmpipeError):
            open_openai(url, None, contract_of("qwen3"), "openai:x", asking)
        assert seen
        return seen


def test_a_key_that_lies_about_is_not_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert not any(KEY in each for each in keys_sent(Asking(retries=0)))


def test_a_key_that_was_named_is_sent(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    assert f"Bearer {KEY}" in keys_sent(Asking(retries=0, api_key_env="MY_KEY"))


def test_a_variable_that_holds_nothing_is_told(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    asking = Asking(api_key_env="MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY is empty"):
        open_openai("http://127.0.0.1:9/v1", None, contract_of("qwen3"), "openai:x", asking)
