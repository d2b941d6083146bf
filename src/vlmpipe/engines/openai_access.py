"""A server's address and key, refused at the start where no request could be made with them."""

from __future__ import annotations

import re

from vlmpipe.errors import ConfigError

FORM = "give it as the openai client takes it: http://HOST:PORT/v1"
BY_VARIABLE = "export it, and name its variable: --api-key-env NAME"
HIGHEST_PORT = 65535


def server_root(base_url: str) -> str:
    """The address without `/v1`, below which all routes of a server lie.

    Raises:
        ConfigError: for what is no address, and for one that holds a password: it would stand in
            results and messages.
    """
    shown = _without_secrets(base_url)
    if shown != base_url:
        raise ConfigError(
            f"the address {shown!r} holds user, password or other arguments, which would be kept"
            " with the results",
            "give it without: http://HOST:PORT/v1",
            f"if it is the API key, {BY_VARIABLE}",
        )
    fault = _fault(base_url)
    if fault:
        raise ConfigError(f"{base_url!r} is no address of a server: {fault}", FORM)
    return base_url.rstrip("/").removesuffix("/v1")


def usable_key(api_key: str | None) -> str | None:
    """The key without space around it; None for one that is empty.

    Raises:
        ConfigError: when it cannot stand in a header.
    """
    key = (api_key or "").strip()
    wrong = next((i for i, each in enumerate(key, start=1) if not "!" <= each <= "~"), None)
    if wrong is not None:
        raise ConfigError(
            f"the API key cannot be sent: character {wrong} of {len(key)} is none of the printable"
            " ASCII ones that a header takes",
            f"copy the key again, {BY_VARIABLE}",
        )
    return key or None


def _without_secrets(base_url: str) -> str:
    """User and password may hold any character but `@`, where they are not written as they should
    be.
    """
    return re.sub(r"^([^:/]*:?/*)[^?#]*@", r"\1", re.split(r"[?#]", base_url, maxsplit=1)[0])


def _fault(address: str) -> str | None:
    import httpx2

    if any(each.isspace() for each in address):
        return "it has a space in it"
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL as exc:
        return str(exc)
    if url.scheme not in ("http", "https"):
        return "it begins with neither http:// nor https://"
    if not url.host:
        return "it names no host"
    if url.port is not None and not 0 < url.port <= HIGHEST_PORT:
        return f"there is no port {url.port}"
    return None
