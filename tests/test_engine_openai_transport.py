"""Replies that come too slowly or are too long, wherever in them the server takes its time."""

from __future__ import annotations

import gzip
from contextlib import suppress

import pytest

import faulty_server as faulty
from faulty_server import faulty_server
from test_engine_openai_faults import ask
from vlmpipe.engines.deadline import TimeLeft
from vlmpipe.engines.openai_server import OpenAIServer
from vlmpipe.errors import ToolError

DRIPS = 400
"""Bytes of a header; unhindered, it and the answer behind it arrive after many times the limit."""

PAUSE_S = 0.02
LIMIT_S = 0.4
LATE = f"no whole reply within {LIMIT_S:g} s"


def drip_headers(handler: faulty.Handler) -> None:
    """An answer whose headers come a byte at a time, without an end while somebody listens."""
    with suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(DRIPS):
            handler.server.released.wait(PAUSE_S)
            handler.wfile.write(b"a")
        handler.wfile.write(b"\r\nContent-Type: text/event-stream\r\n\r\n")
        handler.wfile.write(faulty.piece("late", "stop") + faulty.DONE)


def refuse_and_hang(handler: faulty.Handler) -> None:
    """The head of a refusal, and never the words that should follow."""
    handler.send_response(500)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    faulty.hang(handler)


@pytest.mark.parametrize("trouble", [drip_headers, refuse_and_hang, faulty.hang])
def test_a_reply_that_does_not_come_in_time_fails_alone(trouble: faulty.Deed) -> None:
    with faulty_server(bad=[trouble] * 3) as server:
        bad, good = ask(server, "bad", "b", timeout_s=LIMIT_S)
        assert server.texts().count("bad") == 1
    assert bad.endswith(LATE)
    assert good == "said: b"


def test_redirects_share_one_limit() -> None:
    def lead_on(handler: faulty.Handler) -> None:
        handler.server.released.wait(LIMIT_S / 3)
        faulty.send(handler, 307, b"", Location="/v1/models")

    with faulty_server() as server:
        server.models = lead_on
        with pytest.raises(ToolError, match=LATE):
            OpenAIServer(server.url, timeout_s=LIMIT_S, retries=0).served(None)


def test_what_is_left_shrinks_with_every_use(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("vlmpipe.engines.deadline.monotonic", lambda: now[0])
    limit = TimeLeft.until(110.0, at_most_s=8.0)
    seconds = []
    for now[0] in (100.0, 101.0, 105.0, 109.0, 110.0, 112.0):
        seconds.append(limit.seconds())
    assert seconds == [8.0, 8.0, 5.0, 1.0, 0.0, -2.0]


def test_compression_is_not_asked_for_and_not_taken() -> None:
    bomb = gzip.compress(b"data: {}\n\n" * 100_000)

    def send_bomb(handler: faulty.Handler) -> None:
        kinds = {"Content_Type": "text/event-stream", "Content_Encoding": "gzip"}
        faulty.send(handler, 200, bomb, **kinds)

    with faulty_server(bad=[send_bomb]) as server:
        bad, good = ask(server, "bad", "b")
        assert {each["Accept-Encoding"] for each in server.headers} == {"identity"}
    assert bad == "failed: the reply came in content encoding 'gzip', which was not asked for"
    assert good == "said: b"
