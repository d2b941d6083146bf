"""Registration with an Ollama server: blobs by digest, create, one question; undone on failure."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.errors import ToolError
from vlmpipe.export.modelfile import OllamaSettings
from vlmpipe.pipeline.files import sha256_of

if TYPE_CHECKING:
    import httpx

PROBE_TIMEOUT_S = 2.0
REQUEST_TIMEOUT_S = 600.0
CHUNK_BYTES = 1 << 20
KEPT_SUFFIX = "-before"
"""Name under which a model that is about to be replaced is kept until the new one answers."""


@dataclass(frozen=True)
class OllamaResult:
    """What became of the registration."""

    state: str
    """`registered`, `absent` (no server answered) or `failed` (and undone)."""

    detail: str
    answer: str | None = None

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def register(
    url: str,
    name: str,
    files: Sequence[Path],
    settings: OllamaSettings,
    contract: PreprocessContract,
    question: Sequence[Message],
    modelfile: Path,
) -> OllamaResult:
    """Make the files a model of the Ollama server at `url`, and ask it one question.

    A model of that name is restored when the new one fails. `modelfile` is where the published
    Modelfile will lie, for the command to register later. Never raises for what a server does.
    """
    import httpx

    later = f"register later with: {register_command(name, modelfile)}"
    with httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S, trust_env=False) as client:
        version = _version(client)
        if version is None:
            return OllamaResult("absent", f"no Ollama server answered at {url}; {later}")
        try:
            answer = _create_and_ask(client, name, files, settings, contract, question)
        except (ToolError, httpx.HTTPError, httpx.InvalidURL) as exc:
            reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
            return OllamaResult(
                "failed", f"Ollama {version} at {url} did not take {name}: {reason}; {later}"
            )
    return OllamaResult(
        "registered", f"registered with Ollama {version} at {url} as {name}", answer
    )


def register_command(name: str, modelfile: Path) -> str:
    """The command that registers the published files by hand."""
    return shlex.join(["ollama", "create", name, "-f", str(modelfile)])


def _version(client: httpx.Client) -> str | None:
    """The server's version; None where nothing that speaks Ollama's API answers."""
    import httpx

    try:
        reply = client.get("/api/version", timeout=PROBE_TIMEOUT_S)
        return str(reply.json()["version"]) if reply.is_success else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return None


def _create_and_ask(
    client: httpx.Client,
    name: str,
    files: Sequence[Path],
    settings: OllamaSettings,
    contract: PreprocessContract,
    question: Sequence[Message],
) -> str:
    blobs = {path.name: _push_blob(client, path) for path in files}
    order: dict[str, Any] = {
        "model": name,
        "files": blobs,
        "template": settings.template,
        "parameters": settings.parameters,
        "stream": False,
    }
    if settings.system:
        order["system"] = settings.system
    with _undone_on_failure(client, name):
        reply = _post(client, "/api/create", order)
        if reply.get("status") != "success":
            raise ToolError(f"create ended with {reply.get('error') or reply.get('status')!r}")
        messages = [_as_ollama(message, contract) for message in question]
        answer = _post(client, "/api/chat", {"model": name, "messages": messages, "stream": False})
        return str(answer.get("message", {}).get("content", ""))


@contextmanager
def _undone_on_failure(client: httpx.Client, name: str) -> Iterator[None]:
    """Leave the server as it was when what is done within fails."""
    kept = name + KEPT_SUFFIX
    existed = client.post("/api/show", json={"model": name}).is_success
    if existed:
        _post(client, "/api/copy", {"source": name, "destination": kept})
    try:
        yield
    except BaseException:
        _delete(client, name)
        if existed:
            _post(client, "/api/copy", {"source": kept, "destination": name})
        raise
    finally:
        if existed:
            _delete(client, kept)


def _push_blob(client: httpx.Client, path: Path) -> str:
    """Upload a file unless the server has it; returns its digest as Ollama writes it."""
    digest = f"sha256:{sha256_of(path)}"
    if client.head(f"/api/blobs/{digest}").is_success:
        return digest
    headers = {"Content-Length": str(path.stat().st_size)}
    reply = client.post(f"/api/blobs/{digest}", content=_chunks(path), headers=headers)
    _raise_for(reply, f"upload of {path.name}")
    return digest


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _post(client: httpx.Client, route: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = client.post(route, json=body)
    _raise_for(reply, route)
    if not reply.content:
        return {}
    try:
        return dict(reply.json())
    except (ValueError, TypeError) as exc:
        raise ToolError(f"{route} answered something that is not JSON") from exc


def _delete(client: httpx.Client, name: str) -> None:
    client.request("DELETE", "/api/delete", json={"model": name})


def _raise_for(reply: httpx.Response, what: str) -> None:
    if not reply.is_success:
        raise ToolError(f"{what} answered {reply.status_code}: {reply.text.strip()[:300]}")


def _as_ollama(message: Message, contract: PreprocessContract) -> dict[str, Any]:
    """Text, and images on their exact grid as bare base64."""
    turn: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.images:
        turn["images"] = [_base64_png(contract, image) for image in message.images]
    return turn


def _base64_png(contract: PreprocessContract, image: Any) -> str:
    buffer = io.BytesIO()
    contract.grid.prepare(image).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
