"""Is the service what it promises to be: each endpoint asked once by a real client."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmpipe.serving.probe import Probe

if TYPE_CHECKING:
    import httpx

ANSWER_TOKENS = 64


class _FindingError(Exception):
    """A smoke test's finding."""


@dataclass(frozen=True)
class SmokeResult:
    """One test: `detail` is what was seen."""

    name: str
    passed: bool
    detail: str


def smoke_test(url: str, probe: Probe, model_id: str, *, timeout_s: float) -> list[SmokeResult]:
    """Ask every endpoint; a test that fails does not keep the others from being run."""
    import httpx

    with httpx.Client(base_url=url, timeout=timeout_s) as client:
        tests = _Tests(client, probe, model_id)
        return [
            _result("GET /health", tests.health),
            _result("GET /v1/models", tests.models),
            _result("POST /chat", tests.chat),
            _result("POST /v1/chat/completions", tests.completions),
            _result("POST /v1/chat/completions, stream", tests.stream),
            *([_result("an image counts its tokens", tests.image_tokens)] if probe.images else []),
            _result("a bad request is refused", tests.refusal),
            _result("GET /metrics", tests.metrics),
        ]


def _result(name: str, test: Callable[[], str]) -> SmokeResult:
    import httpx

    try:
        return SmokeResult(name, True, test())
    except _FindingError as exc:
        return SmokeResult(name, False, str(exc))
    except httpx.HTTPError as exc:
        return SmokeResult(name, False, f"{type(exc).__name__}: {exc}")
    except (ValueError, KeyError, IndexError, TypeError) as exc:
        return SmokeResult(name, False, f"unexpected answer: {exc!r}")


class _Tests:
    def __init__(self, client: httpx.Client, probe: Probe, model_id: str) -> None:
        self._client = client
        self._probe = probe
        self._model_id = model_id
        self.answer: str | None = None

    def health(self) -> str:
        response = self._ok(self._client.get("/health"))
        _require(response["status"] == "ready", f"status {response['status']}")
        return "ready"

    def models(self) -> str:
        names = [model["id"] for model in self._ok(self._client.get("/v1/models"))["data"]]
        _require(self._model_id in names, f"lists {names}")
        return self._model_id

    def chat(self) -> str:
        body = {**self._probe.chat_body, "max_tokens": ANSWER_TOKENS}
        response = self._ok(self._client.post("/chat", json=body))
        self.answer = response["answer"]
        _require(response["usage"]["completion_tokens"] > 0, "no token was generated")
        return f"{response['usage']['completion_tokens']} tokens"

    def completions(self) -> str:
        response = self._ok(self._complete())
        answer = response["choices"][0]["message"]["content"]
        self._require_same(answer)
        return f"the same answer, {response['usage']['total_tokens']} tokens in all"

    def stream(self) -> str:
        body = self._body(stream=True, stream_options={"include_usage": True})
        pieces, lines = [], []
        with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            _require(response.status_code == 200, f"HTTP {response.status_code}")
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        _require(lines[-1] == "[DONE]", "the stream did not end with [DONE]")
        for line in lines[:-1]:
            for choice in json.loads(line)["choices"]:
                pieces.append(choice["delta"].get("content", ""))
        self._require_same("".join(pieces))
        return f"the same answer in {len(lines)} events"

    def image_tokens(self) -> str:
        with_image = self._ok(self._complete(max_tokens=1))["usage"]["prompt_tokens"]
        without = Probe(self._probe.text, ()).completion_body(self._model_id, max_tokens=1)
        alone = self._ok(self._client.post("/v1/chat/completions", json=without))
        text_tokens = alone["usage"]["prompt_tokens"]
        _require(with_image > text_tokens, f"{with_image} tokens with it, {text_tokens} without")
        return f"{with_image} tokens with it, {text_tokens} without"

    def refusal(self) -> str:
        body = {"message": "?", "images": ["data:image/png;base64,bm90IGFuIGltYWdl"]}
        response = self._client.post("/chat", json=body)
        _require(response.status_code == 400, f"HTTP {response.status_code}")
        return str(response.json()["error"]["code"])

    def metrics(self) -> str:
        response = self._client.get("/metrics")
        _require(response.status_code == 200, f"HTTP {response.status_code}")
        _require("vlmpipe_requests_total" in response.text, "no vlmpipe_requests_total")
        return f"{len(response.text.splitlines())} lines"

    def _complete(self, **extra: Any) -> httpx.Response:
        return self._client.post("/v1/chat/completions", json=self._body(**extra))

    def _body(self, **extra: Any) -> dict[str, Any]:
        return self._probe.completion_body(self._model_id, **{"max_tokens": ANSWER_TOKENS, **extra})

    def _ok(self, response: httpx.Response) -> dict[str, Any]:
        _require(response.status_code == 200, f"HTTP {response.status_code}: {response.text[:200]}")
        content: dict[str, Any] = response.json()
        return content

    def _require_same(self, answer: str) -> None:
        _require(
            self.answer is None or answer == self.answer,
            f"another answer than /chat gave: {answer[:80]!r} for {(self.answer or '')[:80]!r}",
        )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _FindingError(otherwise)
