"""One request from the queue to its last event: admission, deadline, counting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import TypeVar

from vlmpipe.serving.admission import Admission
from vlmpipe.serving.backend import Backend
from vlmpipe.serving.metrics import Metrics
from vlmpipe.serving.problems import ApiError, bad_image, not_ready, prompt_too_long, timed_out
from vlmpipe.serving.settings import ServiceSettings
from vlmpipe.serving.wire import Event, WireChoice, WireRequest

_T = TypeVar("_T")


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str
    end: Event
    queue_seconds: float
    choices: tuple[WireChoice, ...] | None
    """One for each token, where probabilities were asked for."""


class Service:
    """What the routes ask."""

    def __init__(self, settings: ServiceSettings, backend: Backend) -> None:
        self.settings = settings
        self.backend = backend
        self.metrics = Metrics(settings.model_id)
        self._admission = Admission(settings.max_queue)
        self.metrics.running.set_function(lambda: self._admission.running)
        self.metrics.waiting.set_function(lambda: self._admission.waiting)
        self.metrics.ready.set_function(lambda: self.backend.state == "ready")
        self.metrics.restarts.set_function(lambda: self.backend.restarts)

    async def answer(self, request: WireRequest) -> Answer:
        """The whole answer.

        Raises:
            ApiError: when there is none.
        """
        began = asyncio.get_running_loop().time()
        pieces: list[Event] = []
        async with aclosing(self.events(request)) as events:
            async for event in events:
                if event.event == "piece":
                    pieces.append(event)
        spent = asyncio.get_running_loop().time() - began
        choices = tuple(piece.choice for piece in pieces if piece.choice is not None)
        return Answer(
            text="".join(piece.text for piece in pieces),
            end=event,
            queue_seconds=max(spent - event.seconds, 0.0),
            choices=None if request.top_logprobs is None else choices,
        )

    async def events(self, request: WireRequest) -> AsyncGenerator[Event, None]:
        """`piece` events and `done`; leaving early gives the request up.

        Raises:
            ApiError: not ready, queue full, too late, a bad image, a prompt that does not fit, or
                an engine that stopped.
        """
        if self.backend.state != "ready":
            raise not_ready()
        deadline = asyncio.get_running_loop().time() + self.settings.request_timeout_s
        async with AsyncExitStack() as stack:
            await _by(deadline, stack.enter_async_context(self._admission.turn()))
            events = self.backend.generate(request)
            await stack.enter_async_context(aclosing(events))
            while True:
                event = await _by(deadline, anext(events))
                if event.event == "refused":
                    raise _refusal(event)
                if event.event == "done":
                    self._count(request, event)
                yield event
                if event.event != "piece":
                    return

    def _count(self, request: WireRequest, end: Event) -> None:
        images = sum(part.image is not None for m in request.messages for part in m.parts)
        self.metrics.images.inc(images)
        self.metrics.prompt_tokens.inc(end.prompt_tokens)
        self.metrics.generated_tokens.inc(end.completion_tokens)
        self.metrics.first_token_seconds.observe(end.first_token_seconds)
        if end.completion_tokens > 1:
            self.metrics.speed.observe(end.tokens_per_second)


async def _by(deadline: float, work: Awaitable[_T]) -> _T:
    """The result, or 504 after the deadline."""
    remaining = deadline - asyncio.get_running_loop().time()
    try:
        return await asyncio.wait_for(work, max(remaining, 0.0))
    except TimeoutError as exc:
        raise timed_out() from exc


def _refusal(event: Event) -> ApiError:
    if event.text == "prompt_too_long":
        return prompt_too_long(event.prompt_tokens, event.n_ctx)
    return bad_image()
