"""A judge on a real socket that behaves as it is told: honest, biased, broken, overloaded."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FENCE = re.compile(r"<([A-Z_]+)-([0-9a-f]{12})>\n(.*?)\n</\1-\2>", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """What goes back over the wire."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    trickle_s: float = 0.0
    """Pause before each byte."""


Behaviour = Callable[[dict[str, Any], int], Answer]
"""The request's body and how many came before it."""


@dataclass
class JudgeServer:
    """What was asked of it."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.bodies)


@contextmanager
def judge_server(behave: Behaviour) -> Iterator[JudgeServer]:
    """A server on a free port of this machine."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            with lock:
                before = len(server.bodies)
                server.bodies.append(body)
                server.keys.append(self.headers.get("Authorization", ""))
            self._send(behave(body, before))

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer.body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for byte in [answer.body] if not answer.trickle_s else _bytes(answer.body):
                    time.sleep(answer.trickle_s)
                    self.wfile.write(byte)
                    self.wfile.flush()
            except OSError:
                self.close_connection = True

        def log_message(self, *words: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    http = Server(("127.0.0.1", 0), Handler)
    server = JudgeServer(f"http://127.0.0.1:{http.server_address[1]}/v1")
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def completion(text: str | None, *, usage: bool = True, finish: str = "stop") -> Answer:
    """A chat completion that says `text`: 100 tokens in, 10 out."""
    counted = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    body: dict[str, Any] = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "judge",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text},
            }
        ],
    }
    return Answer(json.dumps(body | ({"usage": counted} if usage else {})).encode())


def error(status: int, message: str = "no", **headers: str) -> Answer:
    """An error as such servers word it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(json.dumps({"error": {"message": message}}).encode(), status, named)


def pair_reply(winner: str, reason: str = "because") -> Answer:
    return completion(json.dumps({"reason": reason, "winner": winner}))


def point_reply(score: int) -> Answer:
    return completion(json.dumps({"reason": "because", "score": score}))


def fences(body: Mapping[str, Any]) -> dict[str, str]:
    """The quoted texts of a request, by title."""
    return {title: text for title, _, text in FENCE.findall(text_of(body))}


def text_of(body: Mapping[str, Any]) -> str:
    """All text of the first user turn."""
    content = body["messages"][1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def honest(body: dict[str, Any], before: int) -> Answer:
    """Names the answer that shares more words with the reference."""
    texts = fences(body)
    reference = set(texts["REFERENCE"].split())
    first, second = (
        len(reference & set(texts[f"{place}_ANSWER"].split())) for place in ("FIRST", "SECOND")
    )
    return pair_reply("tie" if first == second else "first" if first > second else "second")


def sees_only_the_first(body: dict[str, Any], before: int) -> Answer:
    """Whatever stands first wins."""
    return pair_reply("first")


def scores_by_length(body: dict[str, Any], before: int) -> Answer:
    """1 for an empty answer, 5 for one of four words or more."""
    return point_reply(1 + min(4, len(fences(body)["ANSWER"].split())))


def _bytes(body: bytes) -> list[bytes]:
    return [bytes([value]) for value in body]
