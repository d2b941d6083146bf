"""A small OpenAI-compatible server that answers as it is told, ill or well."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Deed = Callable[["Handler"], None]
"""What is done with one request, once its body was read."""


class FaultyServer(ThreadingHTTPServer):
    """Says `said: TEXT` to a text, unless deeds are set for it: one for each time that it comes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: Any = {"data": [{"id": "tiny", "owned_by": "somebody"}]}
        self.deeds: dict[str, list[Deed]] = defaultdict(list)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.key: str | None = None
        self.released = threading.Event()
        self.most_at_once = 0
        self.at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def texts(self) -> list[str]:
        """The texts of the requests, in the order in which they came."""
        return [text_of(body) for body in self.asked]

    def die(self) -> None:
        """Refuse every further connection."""
        threading.Thread(target=self.shutdown).start()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    """One connection; each is closed after its answer."""

    server: FaultyServer

    def do_GET(self) -> None:
        if self.path == "/v1/models" and not isinstance(self.server.models, dict):
            self.server.models(self)
        elif self.path == "/v1/models" and self.allowed():
            send_json(self, self.server.models)
        elif self.path != "/v1/models":
            send(self, 404, b'{"error": {"message": "no such route"}}')

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(body)
            server.headers.append(dict(self.headers))
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            deeds = server.deeds[text_of(body)]
            deed = deeds.pop(0) if deeds else saying(f"said: {text_of(body)}")
        try:
            if self.allowed():
                deed(self)
        finally:
            with server.lock:
                server.at_once -= 1

    def allowed(self) -> bool:
        key = self.server.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        send(self, 401, b'{"error": {"message": "Invalid API Key"}}')
        return False

    def log_message(self, *_: Any) -> None:
        """Silent."""


def text_of(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def send(handler: Handler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    kind = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    for name, value in (kind | {k.replace("_", "-"): v for k, v in headers.items()}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def send_json(handler: Handler, content: Any) -> None:
    send(handler, 200, json.dumps(content).encode())


def begin_stream(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()


def event(content: Any) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def piece(text: str | None, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return event({"id": "x", "object": "chat.completion.chunk", "choices": [choice]})


def usage(prompt: int, completion: int) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 0}
    return event({"id": "x", "choices": [], "usage": counts})


DONE = b"data: [DONE]\n\n"


def streaming(*parts: bytes) -> Deed:
    """A stream of just these bytes."""

    def deed(handler: Handler) -> None:
        begin_stream(handler)
        for part in parts:
            handler.wfile.write(part)

    return deed


def saying(text: str, finish_reason: str = "stop") -> Deed:
    """A whole answer, a word a piece."""
    words = [word + " " for word in text.split(" ")]
    words[-1] = words[-1][:-1]
    pieces = [piece(word) for word in words]
    return streaming(*pieces, piece(None, finish_reason), usage(7, len(words) + 1), DONE)


def refusing(status: int, message: str = "not now", **headers: str) -> Deed:
    """An HTTP error in OpenAI's form."""
    body = json.dumps({"error": {"message": message}}).encode()
    return lambda handler: send(handler, status, body, **headers)


def page(status: int) -> Deed:
    """What a proxy sends for itself."""
    body = b"<html><body><h1>Bad gateway</h1></body></html>"
    return lambda handler: send(handler, status, body, Content_Type="text/html")


def endless(part: bytes) -> Deed:
    """The same part again and again, until the client has gone or the test is over."""

    def deed(handler: Handler) -> None:
        begin_stream(handler)
        with suppress(OSError):
            while not handler.server.released.wait(0.002):
                handler.wfile.write(part)

    return deed


def hang(handler: Handler) -> None:
    """Nothing at all, until the test is over."""
    handler.server.released.wait(60)


def drop(handler: Handler) -> None:
    """The connection ends without an answer."""
    handler.connection.close()


def drop_half_way(handler: Handler) -> None:
    """The connection ends within an event."""
    begin_stream(handler)
    handler.wfile.write(piece("half") + piece("way")[:20])
    handler.wfile.flush()


@contextmanager
def faulty_server(**deeds: Sequence[Deed]) -> Iterator[FaultyServer]:
    """A server of a test's own; `deeds` by the text that is asked."""
    server = FaultyServer()
    for text, planned in deeds.items():
        server.deeds[text] = list(planned)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
