"""Reads and writes of a connection that together end by a deadline.

A socket's own time limit, and so httpx's, starts anew with every byte: a server that drips its
headers would hold a request for ever.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from time import monotonic
from typing import Any

import httpcore2
import httpx2

WRITTEN_AT_ONCE = 64 << 10
"""Bytes, after which the time that is left is looked at again."""


class TimeLeft(float):
    """A time limit in seconds, for each use of the connection, that none may take past `end`."""

    end: float
    """On the monotonic clock."""

    @classmethod
    def until(cls, end: float, at_most_s: float) -> TimeLeft:
        """The limit `at_most_s`, and no longer than until `end`."""
        limit = cls(at_most_s)
        limit.end = end
        return limit

    def seconds(self) -> float:
        """What is left now; 0 or less when it is too late."""
        return min(float(self), self.end - monotonic())


def keep_deadlines(client: httpx2.Client) -> None:
    """Make a client's connections, those through proxies too, heed each `TimeLeft` of a request.

    httpcore takes a network backend of one's own, and httpx has no argument to hand it on.
    """
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):
            transport._pool._network_backend = _Backend(transport._pool._network_backend)


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, inner: httpcore2.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)
        stream = self._inner.connect_tcp(host, port, left, local_address, socket_options)
        return _Stream(stream)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), WRITTEN_AT_ONCE):
            piece = buffer[start : start + WRITTEN_AT_ONCE]
            self._inner.write(piece, _left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _left(timeout: float | None, too_late: type[httpcore2.TimeoutException]) -> float | None:
    if not isinstance(timeout, TimeLeft):
        return timeout
    seconds = timeout.seconds()
    if seconds <= 0:
        raise too_late("the request's time is over")
    return seconds
