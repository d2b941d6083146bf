"""The form of a verdict, and reading one from what a judge replied."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from vlmpipe.evaluation.answers import writable

MAX_REASON = 2000
"""Characters of a reason that are kept."""

MAX_STARTS = 200
"""Braces in a reply at which an object is looked for."""

_THOUGHT_ENDS = "</think>"


def _bounded(value: Any) -> Any:
    """Cut, and without the half characters that a JSON escape can spell."""
    return writable(value[:MAX_REASON]) if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


Reason = Annotated[str, BeforeValidator(_bounded)]


class _Form(BaseModel):
    # Closed in the schema, for servers that insist on it; a judge that says more is understood.
    model_config = ConfigDict(
        frozen=True, extra="ignore", json_schema_extra={"additionalProperties": False}
    )


class PairVerdict(_Form):
    """Which of two answers is better. The reason comes first, so that it is thought of first."""

    reason: Reason
    winner: Annotated[Literal["first", "second", "tie"], BeforeValidator(_lower)]


class PointVerdict(_Form):
    """How good an answer is."""

    reason: Reason
    score: Annotated[
        int, Field(ge=1, le=5), WithJsonSchema({"type": "integer", "enum": [1, 2, 3, 4, 5]})
    ]


V = TypeVar("V", bound=_Form)


def parse_verdict(form: type[V], reply: str) -> V:
    """The verdict in a reply: alone, in a code fence, or at the end of thoughts and chatter.

    Nowhere else: in between, a judge may quote an answer that claims to be a verdict.

    Raises:
        ValueError: in a few words, for a reply that holds none.
    """
    text = reply.strip().removesuffix("```").rstrip()
    if not text:
        raise ValueError("it is empty")
    try:
        return form.model_validate(_after_thoughts(text))
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the object"
        raise ValueError(f"{place}: {first['msg']}") from exc


def _after_thoughts(text: str) -> Any:
    """The object at the end, looked for after the last thought first: thoughts may hold many."""
    _, ended, rest = text.rpartition(_THOUGHT_ENDS)
    if ended:
        try:
            return _last_object(rest)
        except ValueError:
            # The words may stand within the object.
            pass
    return _last_object(text)


def _last_object(text: str) -> Any:
    """The outermost JSON object that the text ends with."""
    decoder = json.JSONDecoder()
    starts = [match.start() for match in re.finditer(r"{", text)]
    for start in starts[:MAX_STARTS]:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if end == len(text):
            return value
    raise ValueError("no JSON object at its end")
