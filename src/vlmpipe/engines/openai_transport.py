"""HTTP with bounds on a whole reply: httpx's own time limit starts anew with every byte."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Event

import httpx2

from vlmpipe.errors import ToolError

CONNECT_TIMEOUT_S = 10.0
MAX_REPLY_BYTES = 64 << 20
"""Many times what the longest answer takes as a stream of single tokens."""

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_BEGUN = "vlmpipe_begun"


def bounded_client(timeout_s: float, given_up: Event) -> httpx2.Client:
    """A client whose replies end within `timeout_s` of the request, or when `given_up` is set.

    A reply that does not raises a ToolError where it is read. Servers on this machine are reached
    past any proxy.
    """

    def begin(request: httpx2.Request) -> None:
        request.extensions = {**request.extensions, _BEGUN: time.monotonic()}

    def bound(response: httpx2.Response) -> None:
        begun = response.request.extensions[_BEGUN]
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _BoundedStream(response.stream, begun, timeout_s, given_up)

    return httpx2.Client(
        timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
        event_hooks={"request": [begin], "response": [bound]},
        mounts={f"all://{host}": None for host in LOOPBACK},
        limits=httpx2.Limits(max_connections=None),
        follow_redirects=True,
    )


class _BoundedStream(httpx2.SyncByteStream):
    """A reply's bytes, as long as they may come."""

    def __init__(
        self, inner: httpx2.SyncByteStream, begun: float, timeout_s: float, given_up: Event
    ) -> None:
        self._inner = inner
        self._begun = begun
        self._timeout_s = timeout_s
        self._given_up = given_up

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._inner:
            size += len(piece)
            if self._given_up.is_set():
                raise ToolError("the request was given up")
            if size > MAX_REPLY_BYTES:
                raise ToolError(f"the reply is longer than {MAX_REPLY_BYTES >> 20} MiB")
            if time.monotonic() - self._begun > self._timeout_s:
                raise ToolError(late(self._timeout_s))
            yield piece

    def close(self) -> None:
        self._inner.close()


def late(timeout_s: float) -> str:
    """What is said of a reply that took too long."""
    return f"no whole reply within {timeout_s:g} s"
