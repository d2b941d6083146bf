"""What servers take of a chat completion's request, which their refusals teach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Dialect = frozenset[str]
"""Fields of the request that are left out, or go by another name."""

PLAIN: Dialect = frozenset()
ALL: Dialect = frozenset({"response_format", "max_tokens"})
DIALECTS: tuple[Dialect, ...] = (PLAIN, *(frozenset({name}) for name in sorted(ALL)), ALL)


def in_dialect(body: Mapping[str, Any], refused: Dialect) -> dict[str, Any]:
    """The body without what a server refuses, or with another name for it."""
    spoken = dict(body)
    if "response_format" in refused:
        # The question says in words what the schema says.
        del spoken["response_format"]
    if "max_tokens" in refused:
        spoken["max_completion_tokens"] = spoken.pop("max_tokens")
    return spoken


def next_dialect(refused: Dialect, error: str) -> Dialect | None:
    """What to try after a refusal, None where nothing is left: servers word the refusal of a schema
    in many ways, or not at all.
    """
    if "max_completion_tokens" in error and "max_tokens" not in refused:
        return refused | {"max_tokens"}
    return None if "response_format" in refused else refused | {"response_format"}
