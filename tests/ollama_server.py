"""A small server of the part of Ollama's HTTP API that registration uses, as it is documented.

Blobs are checked against their digest, models against their blobs, images against bare base64.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from PIL import Image


class OllamaServer:
    """State of the server, and what it was asked."""

    def __init__(self, failing: str | None = None) -> None:
        self.failing = failing
        """A route that answers 500."""

        self.blobs: dict[str, bytes] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.images: list[Image.Image] = []
        self.url = ""

    def create(self, order: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        lost = [digest for digest in order["files"].values() if digest not in self.blobs]
        if lost:
            return 400, {"error": f"blob {lost[0]} not found"}
        self.models[order["model"]] = order
        return 200, {"status": "success"}

    def show(self, order: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        model = self.models.get(order["model"])
        return (200, model) if model else (404, {"error": "model not found"})

    def copy(self, order: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
        if order["source"] not in self.models:
            return 404, {"error": "model not found"}
        self.models[order["destination"]] = self.models[order["source"]]
        return 200, None

    def delete(self, order: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
        return (200, None) if self.models.pop(order["model"], None) else (404, None)

    def chat(self, order: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if order["model"] not in self.models:
            return 404, {"error": "model not found"}
        for message in order["messages"]:
            for text in message.get("images", ()):
                data = base64.b64decode(text, validate=True)
                self.images.append(Image.open(io.BytesIO(data)))
        return 200, {"message": {"role": "assistant", "content": "123"}, "done": True}


@contextmanager
def running(server: OllamaServer) -> Iterator[OllamaServer]:
    """Serve on a free port of this machine while the block runs."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(server))
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def _handler_of(server: OllamaServer) -> type[BaseHTTPRequestHandler]:
    routes: dict[str, Callable[[dict[str, Any]], tuple[int, Any]]] = {
        "/api/create": server.create,
        "/api/show": server.show,
        "/api/copy": server.copy,
        "/api/delete": server.delete,
        "/api/chat": server.chat,
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = self.path == "/api/version"
            self._answer(200 if found else 404, {"version": "0.12.0"} if found else None)

        def do_HEAD(self) -> None:
            server.requests.append(f"HEAD {self.path}")
            self._answer(200 if self.path.rpartition("/")[2] in server.blobs else 404, None)

        def do_POST(self) -> None:
            server.requests.append(f"POST {self.path}")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if server.failing and self.path.startswith(server.failing):
                self._answer(500, {"error": "runner terminated: unsupported split model"})
            elif self.path.startswith("/api/blobs/"):
                self._answer(*self._store(self.path.rpartition("/")[2], body))
            else:
                self._answer(*routes[self.path](json.loads(body)))

        do_DELETE = do_POST  # noqa: N815

        def _store(self, digest: str, body: bytes) -> tuple[int, Any]:
            if digest != f"sha256:{hashlib.sha256(body).hexdigest()}":
                return 400, {"error": "digest mismatch"}
            server.blobs[digest] = body
            return 201, None

        def _answer(self, code: int, value: Any) -> None:
            data = b"" if value is None else json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
