"""HTTP with bounds on a whole reply, headers included: its time and its size."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from time import monotonic

import httpx2

from vlmpipe.engines.deadline import TimeLeft, keep_deadlines
from vlmpipe.engines.replies import MAX_SAID
from vlmpipe.errors import ToolError

CONNECT_TIMEOUT_S = 10.0
MAX_REPLY_BYTES = 64 << 20
"""Many times what the longest answer takes as a stream of single tokens."""

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
AS_IT_IS = "identity"
"""The content encoding in which the bytes that come are those that are read."""


def bounded_client(timeout_s: float, given_up: Event) -> httpx2.Client:
    """A client whose replies end within `timeout_s` of the request, redirects included, or when
    `given_up` is set.

    One that does not raises httpx's own time-out where it is read; one that was given up, or is too
    long, a ToolError. Servers on this machine are reached past any proxy.
    """
    connect_s = min(timeout_s, CONNECT_TIMEOUT_S)

    def begin(request: httpx2.Request) -> None:
        if not isinstance(request.extensions["timeout"]["read"], TimeLeft):
            limits = _limits(monotonic() + timeout_s, timeout_s, connect_s)
            request.extensions = {**request.extensions, "timeout": limits}

    def bound(response: httpx2.Response) -> None:
        _refuse_packed(response)
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _BoundedStream(response.stream, given_up)

    client = httpx2.Client(
        headers={"Accept-Encoding": AS_IT_IS},
        timeout=httpx2.Timeout(timeout_s, connect=connect_s),
        event_hooks={"request": [begin], "response": [bound]},
        mounts={f"all://{host}": None for host in LOOPBACK},
        limits=httpx2.Limits(max_connections=None),
        follow_redirects=True,
    )
    keep_deadlines(client)
    return client


def _limits(end: float, timeout_s: float, connect_s: float) -> dict[str, float]:
    whole = TimeLeft.until(end, timeout_s)
    connect = TimeLeft.until(end, connect_s)
    return {"connect": connect, "read": whole, "write": whole, "pool": whole}


def _refuse_packed(response: httpx2.Response) -> None:
    """A few bytes may unpack to more than there is memory for."""
    packing = response.headers.get("content-encoding", "").strip().lower() or AS_IT_IS
    if packing != AS_IT_IS:
        raise ToolError(
            f"the reply came in content encoding {packing[:MAX_SAID]!r}, which was not asked for",
            "turn compression off in the server, or in the proxy before it",
        )


class _BoundedStream(httpx2.SyncByteStream):
    """A reply's bytes, as many as may come."""

    def __init__(self, inner: httpx2.SyncByteStream, given_up: Event) -> None:
        self._inner = inner
        self._given_up = given_up

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._inner:
            size += len(piece)
            if self._given_up.is_set():
                raise ToolError("the request was given up")
            if size > MAX_REPLY_BYTES:
                raise ToolError(f"the reply is longer than {MAX_REPLY_BYTES >> 20} MiB")
            yield piece

    def close(self) -> None:
        self._inner.close()


def late(timeout_s: float) -> str:
    """What is said of a reply that took too long."""
    return f"no whole reply within {timeout_s:g} s"
