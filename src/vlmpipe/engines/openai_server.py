"""One OpenAI-compatible server: what it is, and requests that outlast its bad moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from vlmpipe.engines.discretion import Discretion
from vlmpipe.engines.openai_access import server_root, usable_key
from vlmpipe.engines.patience import BACKOFF_S, Fault, Patience
from vlmpipe.engines.replies import MAX_SAID, BrokenOffError, understood
from vlmpipe.errors import ConfigError, ToolError, VlmpipeError

if TYPE_CHECKING:
    import httpx2
    import openai

Kind = Literal["vllm", "llama-server", "sglang", "vlmpipe", "unknown"]
OWNERS: Mapping[str, Kind] = {
    "vllm": "vllm",
    "llamacpp": "llama-server",
    "sglang": "sglang",
    "vlmpipe": "vlmpipe",
}
"""What each server calls itself in `owned_by` of its models."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class ServedModel:
    """What a server says of itself and of one of its models."""

    name: str
    kind: Kind
    version: str
    """In the server's own words, where it has any."""


class OpenAIServer:
    """One server, for use from several threads; every fault of it is a VlmpipeError."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        retries: int = 4,
        backoff_s: float = BACKOFF_S,
    ) -> None:
        """`timeout_s` is for one attempt, first byte to last; `backoff_s` is doubled after each.

        Raises:
            ConfigError: for an address or a key that no request could be made with.
        """
        self.root = server_root(base_url)
        self._timeout_s = timeout_s
        key = usable_key(api_key)
        self._key = key or "none"
        self.discretion = Discretion(key)
        self._given_up = Event()
        self._patience = Patience(retries, backoff_s=backoff_s, given_up=self._given_up)

    def served(self, model: str | None) -> ServedModel:
        """The model of that name, or the only one.

        Raises:
            ConfigError: when there is none of that name, or several and none is named; or when the
                server refuses the API key.
            ToolError: when it cannot be reached, or speaks something else.
        """
        route = "/v1/models"
        listed = self.get(route)
        with self.discretion.kept():
            with understood(route):
                owners = {str(each["id"]): str(each.get("owned_by", "")) for each in listed["data"]}
            name = _chosen(model, list(owners), self.root)
        kind = OWNERS.get(owners[name].lower(), "unknown")
        version = self.discretion.told(self._version(kind, owners[name])[:MAX_SAID])
        return ServedModel(name, kind, version)

    def get(self, route: str) -> dict[str, Any]:
        """A JSON object from a route below the server's root."""
        return self.persist(
            lambda: _object(self._client.get(self.root + route, cast_to=object), route)
        )

    def post(self, route: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that answers one."""
        sent = dict(body)
        return self.persist(
            lambda: _object(self._client.post(self.root + route, body=sent, cast_to=object), route)
        )

    @contextmanager
    def stream(self, order: Mapping[str, Any]) -> Iterator[openai.Stream[Any]]:
        """One attempt at a streamed chat completion; `persist` is for whoever reads it."""
        asked = {**order, "stream": True, "stream_options": {"include_usage": True}}
        with self._client.chat.completions.create(**asked) as chunks:
            yield chunks

    def persist(self, attempt: Callable[[], _T]) -> _T:
        """Do it, and again where a fault may pass.

        Raises:
            VlmpipeError: the last attempt's.
        """
        with self.discretion.kept():
            return self._patience.persist(attempt, self._fault_of)

    def give_up(self) -> None:
        """End requests under way with their next byte, and all waiting."""
        self._given_up.set()

    def close(self) -> None:
        """End everything and free the connections."""
        self.give_up()
        self._http.close()

    def _fault_of(self, exc: Exception) -> Fault | None:
        from httpx2 import RequestError
        from openai import OpenAIError

        from vlmpipe.engines.openai_faults import fault_of

        if isinstance(exc, OpenAIError | RequestError | BrokenOffError):
            return fault_of(exc, self.root, self._timeout_s)
        return None

    def _version(self, kind: Kind, owner: str) -> str:
        try:
            if kind == "vllm":
                return f"vllm {self.get('/version')['version']}"
            if kind == "llama-server":
                return f"llama-server {self.get('/props')['build_info']}"
            if kind == "sglang":
                return f"sglang {self.get('/get_server_info')['version']}"
            if kind == "vlmpipe":
                return f"vlmpipe {self.get('/health')['version']}"
        except ConfigError:
            raise
        except (VlmpipeError, KeyError):
            return f"{kind} of unknown version"
        return f"{owner or 'unknown server'} of unknown version"

    @cached_property
    def _http(self) -> httpx2.Client:
        from vlmpipe.engines.openai_transport import bounded_client

        return bounded_client(self._timeout_s, self._given_up)

    @cached_property
    def _client(self) -> openai.OpenAI:
        from openai import OpenAI

        return OpenAI(
            base_url=f"{self.root}/v1", api_key=self._key, max_retries=0, http_client=self._http
        )


def _chosen(model: str | None, known: list[str], root: str) -> str:
    if model is None and len(known) == 1:
        return known[0]
    if model in known and model is not None:
        return model
    said = f"has no model {model!r}" if model else f"has {len(known)} models, and none was named"
    raise ConfigError(
        f"{root} {said}",
        "name one of those that it lists",
        problems=known or ["it lists none"],
    )


def _object(reply: object, route: str) -> dict[str, Any]:
    if not isinstance(reply, dict):
        kind = "text" if isinstance(reply, str) else type(reply).__name__
        raise ToolError(
            f"{route} answered {kind} and no JSON object: {str(reply).strip()[:MAX_SAID]!r}",
            "give the server's address as the openai client takes it: http://HOST:PORT/v1",
        )
    return cast(dict[str, Any], reply)
