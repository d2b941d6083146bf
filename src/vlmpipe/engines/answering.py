"""Many conversations asked of any engine: in order, lazily, and past those that fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.base import BatchingEngine, Completion, Engine, Failure
from vlmpipe.errors import VlmpipeError


def answers(
    engine: Engine, conversations: Iterable[Sequence[Message]], *, max_new_tokens: int
) -> Iterator[Completion | Failure]:
    """What an engine makes of each conversation, in their order.

    No more conversations are taken than the engine works on at once, so memory does not grow with
    their number. Bugs of the engine are not caught.
    """
    if isinstance(engine, BatchingEngine):
        yield from engine.complete_all(conversations, max_new_tokens=max_new_tokens)
        return
    for messages in conversations:
        yield answer(engine, messages, max_new_tokens=max_new_tokens)


def answer(
    engine: Engine, messages: Sequence[Message], *, max_new_tokens: int
) -> Completion | Failure:
    """What an engine makes of one conversation."""
    try:
        return engine.complete(messages, max_new_tokens=max_new_tokens)
    except VlmpipeError as error:
        return failure_of(error)


def failure_of(error: VlmpipeError) -> Failure:
    """An error as a record keeps it: what is wrong, without the ways out."""
    return Failure("; ".join([error.message, *error.problems]))
