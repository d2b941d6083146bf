"""A local server of the part of Ollama's HTTP API that this project uses.

After its documentation (docs/api.md) and its handlers (server/routes.go, server/create.go): blobs
are checked against their digests, models against their blobs and GGUF headers, images against bare
base64; prompts are rendered by the model's Go template; errors have Ollama's words. What differs
from release to release follows `version`. Answers come from `answer`: fixed, or a real GGUF run.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from PIL import Image

from go_template import render_ollama
from ollama_gguf import header_strings

Reply = tuple[int, dict[str, Any] | list[dict[str, Any]] | None]
"""Status and body: one object, several as lines of a stream, or none."""


@dataclass(frozen=True)
class Asked:
    """What the runner of a model is given."""

    prompt: str
    """Images as `[img-0]`, `[img-1]` …"""

    images: Sequence[Image.Image]
    num_predict: int
    top_logprobs: int


@dataclass(frozen=True)
class Answered:
    """What it gives back."""

    text: str
    done_reason: str = "stop"
    prompt_tokens: int = 7
    tokens: int = 1
    logprobs: Sequence[Mapping[str, Any]] = ()


@dataclass
class Model:
    """A created model."""

    order: dict[str, Any]
    weights: bytes
    projector: bytes | None


Runner = Callable[[Model, Asked], Answered]


def always_123(model: Model, asked: Asked) -> Answered:
    """An answer that needs no model."""
    return Answered("123")


@dataclass
class OllamaServer:
    """State of the server, and what it was asked."""

    version: str = "0.31.1"
    answer: Runner = always_123
    failing: str | None = None
    """A route that answers 500."""

    busy: int = 0
    """Questions that are refused first because the queue is full."""

    shows_prompts: bool = True
    blobs: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    """Questions that were really answered."""

    url: str = ""
    lock: Lock = field(default_factory=Lock)

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("-")[0].split("."))

    def create(self, order: dict[str, Any]) -> Reply:
        if not order.get("files") and not order.get("from"):
            return 400, {"error": "neither 'from' or 'files' was specified"}
        for name, digest in order["files"].items():
            if digest not in self.blobs:
                lost = f"blob not found for {name} (digest {digest}): file does not exist"
                return 400, {"error": lost}
        steps = [{"status": "parsing GGUF"}]
        try:
            model = self._assembled(order)
        except ValueError as exc:
            return self._streamed(order, [*steps, {"error": str(exc)}], status=400)
        self.models[_full(order["model"])] = model
        steps += [{"status": "writing manifest"}, {"status": "success"}]
        return self._streamed(order, steps)

    def _assembled(self, order: dict[str, Any]) -> Model:
        weights: list[bytes] = []
        projectors: list[bytes] = []
        for name, digest in order["files"].items():
            if not name.endswith(".gguf"):
                raise ValueError("supplied file was not in GGUF format")
            data = self.blobs[digest]
            strings = header_strings(data)
            projector = strings.get("general.type") in ("mmproj", "projector")
            projector = projector or strings.get("general.architecture") == "clip"
            (projectors if projector else weights).append(data)
        if len(weights) != 1 or len(projectors) > 1:
            raise ValueError("invalid split GGUF")
        return Model(order, weights[0], projectors[0] if projectors else None)

    def show(self, order: dict[str, Any]) -> Reply:
        model = self._model(order)
        if model is None:
            return self._unknown(order)
        keys = ("template", "system", "parameters")
        told = {key: model.order.get(key) for key in keys if key in model.order}
        sees = ["vision"] if model.projector else []
        return 200, {**told, "capabilities": ["completion", *sees]}

    def tags(self) -> dict[str, Any]:
        """Each model as the real server lists it; digests here are of the text file alone."""
        return {
            "models": [
                {
                    "name": name,
                    "digest": hashlib.sha256(model.weights).hexdigest(),
                    "details": {"format": "gguf", "quantization_level": "Q4_K_M"},
                }
                for name, model in self.models.items()
            ]
        }

    def copy(self, order: dict[str, Any]) -> Reply:
        source = self.models.get(_full(order["source"]))
        if source is None:
            return 404, {"error": f'model "{order["source"]}" not found'}
        self.models[_full(order["destination"])] = source
        return 200, None

    def delete(self, order: dict[str, Any]) -> Reply:
        gone = self.models.pop(_full(order["model"]), None)
        return (200, None) if gone else self._unknown(order)

    def chat(self, order: dict[str, Any]) -> Reply:
        model = self._model(order)
        if model is None:
            return self._unknown(order)
        if self.busy:
            self.busy -= 1
            told = "server busy, please try again.  maximum pending requests exceeded"
            return 503, {"error": told}
        try:
            images = [image for turn in order["messages"] for image in _images(turn)]
        except binascii.Error:
            return 400, {"error": "illegal base64 data at input byte 0"}
        if images and model.projector is None:
            return 500, {"error": "this model is missing data required for image input"}
        if model.projector and (0, 11, 11) <= self.number < (0, 30, 0):
            refused = "unable to load model: split vision models aren't supported"
            return 500, {"error": refused}
        prompt = render_ollama(
            model.order["template"], order["messages"], model.order.get("system")
        )
        if order.get("_debug_render_only") and self.shows_prompts:
            info = {"rendered_template": prompt, "image_count": len(images)}
            return 200, {"model": order["model"], "_debug_info": info}
        return self._answered(model, order, prompt, images)

    def _answered(
        self, model: Model, order: dict[str, Any], prompt: str, images: list[Image.Image]
    ) -> Reply:
        if self.number < (0, 11, 11):  # the projector is ignored: ollama #12241
            images = []
        options = {**model.order.get("parameters", {}), **order.get("options", {})}
        top = order.get("top_logprobs", 0) if order.get("logprobs") else 0
        asked = Asked(prompt, images, options.get("num_predict", 128), top)
        self.asked.append(asked)
        with self.lock:
            said = self.answer(model, asked)
        end = {
            "model": order["model"],
            "done": True,
            "done_reason": said.done_reason,
            "prompt_eval_count": said.prompt_tokens,
            "prompt_eval_duration": 1_000_000,
            "eval_count": said.tokens,
        }
        message = {"role": "assistant", "content": said.text}
        told: dict[str, Any] = {"model": order["model"], "message": message, "done": False}
        if order.get("logprobs") and self.number >= (0, 12, 11):
            told["logprobs"] = list(said.logprobs)
        if order.get("stream", True):
            return 200, [told, {**end, "message": {**message, "content": ""}}]
        return 200, {**told, **end}

    def store(self, digest: str, body: bytes) -> Reply:
        found = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if digest != found:
            return 400, {"error": f'digest mismatch, expected "{digest}", got "{found}"'}
        self.blobs[digest] = body
        return 201, None

    def _model(self, order: dict[str, Any]) -> Model | None:
        return self.models.get(_full(order["model"]))

    def _unknown(self, order: dict[str, Any]) -> Reply:
        return 404, {"error": f"model '{order['model']}' not found"}

    def _streamed(
        self, order: dict[str, Any], steps: list[dict[str, Any]], status: int = 200
    ) -> Reply:
        """Every step as a line, or the last one alone; an error in a stream comes with 200."""
        return (200, steps) if order.get("stream", True) else (status, steps[-1])


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _images(turn: Mapping[str, Any]) -> Iterator[Image.Image]:
    for text in turn.get("images") or ():
        yield Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


@contextmanager
def running(server: OllamaServer) -> Iterator[OllamaServer]:
    """Serve on a free port of this machine while the block runs."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(server))
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def _handler_of(server: OllamaServer) -> type[BaseHTTPRequestHandler]:
    routes: dict[str, Callable[[dict[str, Any]], Reply]] = {
        "/api/create": server.create,
        "/api/show": server.show,
        "/api/copy": server.copy,
        "/api/delete": server.delete,
        "/api/chat": server.chat,
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            told = {"/api/version": {"version": server.version}, "/api/tags": server.tags()}
            self._answer(200 if self.path in told else 404, told.get(self.path))

        def do_HEAD(self) -> None:
            server.requests.append(f"HEAD {self.path}")
            self._answer(200 if self.path.rpartition("/")[2] in server.blobs else 404, None)

        def do_POST(self) -> None:
            server.requests.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if server.failing and self.path.startswith(server.failing):
                self._answer(500, {"error": "llama runner process has terminated: exit status 2"})
            elif self.path.startswith("/api/blobs/"):
                self._answer(*server.store(self.path.rpartition("/")[2], body))
            else:
                self._answer(*routes[self.path](json.loads(body)))

        do_DELETE = do_POST  # noqa: N815

        def _answer(self, code: int, value: Any) -> None:
            lines = value if isinstance(value, list) else [] if value is None else [value]
            data = b"\n".join(json.dumps(line).encode() for line in lines)
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
