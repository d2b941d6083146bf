"""Ollama's HTTP API, as far as this project talks to it; its errors in its own words."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vlmpipe.engines.base import Served
from vlmpipe.engines.patience import Fault, Patience
from vlmpipe.engines.replies import understood
from vlmpipe.errors import ToolError

if TYPE_CHECKING:
    import httpx

PROBE_TIMEOUT_S = 2.0
REQUEST_TIMEOUT_S = 600.0
RETRIES = 4
CHUNK_BYTES = 1 << 20
BUSY_TRIES = 10
BUSY_WAIT_S = 2.0
"""A server whose queue of 512 is full answers 503 at once."""

LOGPROBS_SINCE = (0, 12, 11)
"""First release that answers `logprobs` (its release notes); older ones ignore the field."""

Version = tuple[int, int, int]


class OllamaApi:
    """One server. Use it as a context manager; every fault of the server is a ToolError."""

    def __init__(
        self, url: str, *, timeout_s: float = REQUEST_TIMEOUT_S, retries: int = RETRIES
    ) -> None:
        """`timeout_s` is for one request, `retries` for chats whose connection was lost."""
        import httpx

        self.url = url
        self._patience = Patience(retries)
        try:
            self._client = httpx.Client(base_url=url, timeout=timeout_s, trust_env=False)
        except httpx.InvalidURL as exc:
            raise ToolError(str(exc)) from exc

    def __enter__(self) -> OllamaApi:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def version(self) -> str | None:
        """The server's version; None where nothing that speaks Ollama's API answers."""
        import httpx

        try:
            reply = self._client.get("/api/version", timeout=PROBE_TIMEOUT_S)
            return str(reply.json()["version"]) if reply.is_success else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
            return None

    def push_blob(self, path: Path) -> str:
        """Upload a file unless the server has it; returns its digest as Ollama writes it."""
        digest = f"sha256:{_sha256(path)}"
        route = f"/api/blobs/{digest}"
        if self._send("HEAD", route).is_success:
            return digest
        headers = {"Content-Length": str(path.stat().st_size)}
        reply = self._send("POST", route, content=_chunks(path), headers=headers)
        _raise_for(reply, f"upload of {path.name}")
        return digest

    def create(self, order: Mapping[str, Any]) -> list[str]:
        """Make a model; returns the statuses that the server went through.

        Raises:
            ToolError: when it did not end with success.
        """
        reply = self._send("POST", "/api/create", json={**order, "stream": True})
        _raise_for(reply, "create")
        steps = [_json(line, "create") for line in reply.text.splitlines() if line.strip()]
        wrong = next((step["error"] for step in steps if "error" in step), None)
        if wrong:
            raise ToolError(f"create: {wrong}")
        seen = [str(step["status"]) for step in steps if "status" in step]
        if seen[-1:] != ["success"]:
            raise ToolError(f"create ended with {seen[-1] if seen else 'nothing'!r}")
        return seen

    def exists(self, name: str) -> bool:
        """Whether the server knows a model of that name."""
        return self._send("POST", "/api/show", json={"model": name}).is_success

    def served(self, name: str) -> Served:
        """What the server says of a model: the digest of its manifest, its quantisation."""
        listed = _json(self._send("GET", "/api/tags").text, "/api/tags")
        with understood("/api/tags"):
            for each in listed.get("models", []):
                if each["name"] in (name, f"{name}:latest"):
                    level = str(each.get("details", {}).get("quantization_level") or "").lower()
                    return Served(name, {"manifest": str(each["digest"])}, level or None)
        return Served(name)

    def copy(self, source: str, destination: str) -> None:
        """Give a model a second name."""
        order = {"source": source, "destination": destination}
        _raise_for(self._send("POST", "/api/copy", json=order), "copy")

    def delete(self, name: str) -> None:
        """Remove a model; one that is not there is no fault."""
        reply = self._send("DELETE", "/api/delete", json={"model": name})
        if reply.status_code != 404:
            _raise_for(reply, "delete")

    def chat(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """One answer, in one piece; asked again where the server was busy, or lost the connection.

        Raises:
            ToolError: when it fails for good, or takes too long.
        """
        return self._patience.persist(lambda: self._chat(order), _fault_of)

    def _chat(self, order: Mapping[str, Any]) -> dict[str, Any]:
        for _ in range(BUSY_TRIES):
            reply = self._send("POST", "/api/chat", json={**order, "stream": False})
            if reply.status_code != 503:
                break
            time.sleep(BUSY_WAIT_S)
        _raise_for(reply, "/api/chat")
        answer = _json(reply.text, "/api/chat")
        if "error" in answer:
            raise ToolError(f"/api/chat: {answer['error']}")
        return answer

    def rendered(self, name: str, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """The prompt that the server makes of messages; None where it does not say.

        `_debug_render_only` is undocumented, and a server that does not know it answers the
        question instead: it is bounded to one token.
        """
        answer = self.chat(
            {
                "model": name,
                "messages": list(messages),
                "options": {"num_predict": 1},
                "_debug_render_only": True,
            }
        )
        info = answer.get("_debug_info")
        if info is None:
            return None
        with understood("/api/chat"):
            prompt = info["rendered_template"]
            if not isinstance(prompt, str):
                raise TypeError(f"a prompt that is {prompt!r}")
        return prompt

    def _send(self, method: str, route: str, **arguments: Any) -> httpx.Response:
        import httpx

        try:
            return self._client.request(method, route, **arguments)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise ToolError(f"{route}: {exc or type(exc).__name__}") from exc


def version_of(text: str) -> Version:
    """A version as numbers: `0.12.11-rc1` is 0.12.11; what cannot be read is 0.0.0."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else (0, 0, 0)


def _fault_of(exc: Exception) -> Fault | None:
    """What a failed chat means: a connection that was lost may come back, an answer that takes too
    long would take as long again.
    """
    import httpx

    if not isinstance(exc, ToolError):
        return None
    cause = exc.__cause__
    unreachable = isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout)
    lost = isinstance(cause, httpx.NetworkError | httpx.RemoteProtocolError)
    return Fault(exc, passing=lost or unreachable, unreachable=unreachable)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _json(text: str, what: str) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], dict(json.loads(text)))
    except (ValueError, TypeError) as exc:
        raise ToolError(f"{what} answered something that is not JSON") from exc


def _raise_for(reply: httpx.Response, what: str) -> None:
    if reply.is_success:
        return
    try:
        said = str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        said = reply.text.strip()[:300]
    raise ToolError(f"{what} answered {reply.status_code}: {said}")
