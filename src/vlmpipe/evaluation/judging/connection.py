"""The client for a judge's endpoint, and its key."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from vlmpipe.config.judge import JudgeConfig
from vlmpipe.errors import ConfigError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

SHORTEST_SECRET = 8
"""A shorter key, such as `none` or `EMPTY`, is a word, and stands in texts that hold no key."""


def open_client(config: JudgeConfig) -> AsyncOpenAI:
    """The client for a judge's endpoint.

    Raises:
        ConfigError: where the key's variable is not set or holds no key, the address is none, or
            the library is not installed.
    """
    try:
        import httpx2
        from openai import AsyncOpenAI

        from vlmpipe.evaluation.judging.transport import BoundedClient
    except ImportError as exc:
        raise ConfigError(
            "a judge needs the `openai` client, which is not installed",
            "install it: pip install 'vlmpipe[eval]'",
        ) from exc
    try:
        return AsyncOpenAI(
            base_url=config.base_url,
            api_key=_key(config),
            timeout=config.timeout_s,
            max_retries=config.max_retries,
            http_client=BoundedClient(config.timeout_s),
        )
    except httpx2.InvalidURL as exc:
        raise ConfigError(
            f"validate.judge.base_url={config.base_url} is no address: {exc}",
            "give it as validate.judge.base_url=http://HOST:PORT/v1",
        ) from exc


def without_key(text: str, key: str) -> str:
    """What a server said, with the key that it was sent as `***`: some servers repeat it."""
    if len(key) < SHORTEST_SECRET:
        return text
    # As it is, and as it stands in quoted JSON or in Python's words for it.
    for written in (key, json.dumps(key)[1:-1], repr(key)[1:-1]):
        text = text.replace(written, "***")
    return text


def _key(config: JudgeConfig) -> str:
    name = config.api_key_env
    if name is None:
        return "none"
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            f"the judge's key is not there: the environment variable {name} is empty",
            f"set it: export {name}=…",
            "or leave validate.judge.api_key_env out, for an endpoint that needs no key",
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"the environment variable {name} holds no key that a request can carry: it has line"
            " breaks, or characters beyond ASCII",
            f"set it as the endpoint gave it: export {name}=…",
        )
    return key
