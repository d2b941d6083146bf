"""The worker process: holds the engine, decodes images, answers one request after another.

    python -m vlmpipe.serving.worker --bundle DIR

A process of its own, so that a fault in llama.cpp or in an image decoder ends this process and
never the gateway.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from vlmpipe.encoding.conversation import Message, Part
from vlmpipe.engines.base import Completion
from vlmpipe.engines.likely import Choice, LikelyToken, Piece
from vlmpipe.engines.llama_cpp import LlamaCppEngine, PromptTooLongError
from vlmpipe.errors import VlmpipeError
from vlmpipe.serving.settings import ServiceSettings, read_settings
from vlmpipe.serving.wire import (
    IMAGE_FORMATS,
    Event,
    WireChoice,
    WireMessage,
    WirePart,
    WireRequest,
    WireToken,
)

_LOG = logging.getLogger("vlmpipe.worker")


class BadImageError(Exception):
    """An image that cannot be decoded."""


class Inbox:
    """Requests and cancellations, read by a thread of their own from a pipe."""

    def __init__(self, stream: BinaryIO) -> None:
        self._requests: queue.Queue[WireRequest | None] = queue.Queue()
        self._cancelled: set[int] = set()
        self._stream = stream
        threading.Thread(target=self._read, daemon=True).start()

    def __iter__(self) -> Iterator[WireRequest]:
        """Requests in the order in which they came, until the gateway closes the pipe."""
        while (request := self._requests.get()) is not None:
            yield request

    def cancelled(self, request_id: int) -> bool:
        """Whether the gateway gave a request up."""
        return request_id in self._cancelled

    def forget(self, request_id: int) -> None:
        """A request is over."""
        self._cancelled.discard(request_id)

    def _read(self) -> None:
        try:
            for line in self._stream:
                self._take(json.loads(line))
        finally:
            # The gateway is gone: leave at once, whatever the engine is doing.
            os._exit(0)

    def _take(self, content: dict[str, Any]) -> None:
        if "cancel" in content:
            self._cancelled.add(content["cancel"])
        else:
            self._requests.put(WireRequest.model_validate(content))


class Worker:
    """One engine and the pipe that its answers go to."""

    def __init__(self, engine: LlamaCppEngine, inbox: Inbox, output: BinaryIO) -> None:
        self._engine = engine
        self._inbox = inbox
        self._output = output

    def run(self) -> None:
        """Answer requests until there are no more."""
        engine = self._engine
        self._send(Event(event="ready", n_ctx=engine.n_ctx, n_ctx_train=engine.n_ctx_train))
        for request in self._inbox:
            self._send(self._answer(request))
            self._inbox.forget(request.id)

    def _answer(self, request: WireRequest) -> Event:
        try:
            messages = [self._message(message) for message in request.messages]
            completion = self._generate(request, messages)
        except BadImageError:
            return Event(event="refused", id=request.id, text="bad_image")
        except PromptTooLongError as exc:
            return Event(
                event="refused",
                id=request.id,
                text="prompt_too_long",
                prompt_tokens=exc.tokens,
                n_ctx=exc.limit,
            )
        except VlmpipeError:
            _LOG.exception("request %d failed", request.id)
            return Event(event="failed", id=request.id)
        if completion is None:
            return Event(event="cancelled", id=request.id)
        return Event(
            event="done",
            id=request.id,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            seconds=completion.seconds,
            first_token_seconds=completion.first_token_seconds,
        )

    def _generate(self, request: WireRequest, messages: list[Message]) -> Completion | None:
        """None when the gateway gave the request up on the way."""
        with closing(
            self._engine.stream(
                messages,
                max_new_tokens=request.max_new_tokens,
                top_logprobs=request.top_logprobs,
            )
        ) as answer:
            while not self._inbox.cancelled(request.id):
                try:
                    piece = next(answer)
                except StopIteration as done:
                    completion: Completion = done.value
                    return completion
                self._send(_event_of(piece, request.id))
        return None

    def _message(self, message: WireMessage) -> Message:
        return Message(message.role, tuple(self._part(part) for part in message.parts))

    def _part(self, part: WirePart) -> Part:
        if part.image is None:
            return part.text or ""
        image = _decode(part.image)
        try:
            self._engine.contract.grid.target_size(image.height, image.width)
        except ValueError as exc:
            raise BadImageError from exc
        return image

    def _send(self, event: Event) -> None:
        self._output.write(event.line)
        self._output.flush()


def main() -> None:
    """Load what a bundle names and serve it over stdin and stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--context", type=int)
    arguments = parser.parse_args()
    # The gateway decides when to stop, by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    output = _private_stdout()
    try:
        settings = _overridden(read_settings(arguments.bundle), arguments)
        engine = load_engine(arguments.bundle, settings)
    except VlmpipeError as exc:
        _LOG.error("%s", exc)
        raise SystemExit(exc.exit_code) from exc
    Worker(engine, Inbox(sys.stdin.buffer), output).run()


def load_engine(bundle: Path, settings: ServiceSettings) -> LlamaCppEngine:
    """The engine that a bundle describes.

    Raises:
        ArtifactError: when its files cannot be loaded or contradict the contract.
    """
    return LlamaCppEngine(
        bundle / settings.gguf,
        bundle / settings.mmproj if settings.mmproj else None,
        settings.contract(bundle),
        name=settings.model_id,
        n_ctx=settings.n_ctx,
        n_threads=settings.n_threads,
        n_gpu_layers=settings.n_gpu_layers,
    )


def _event_of(piece: Piece, request_id: int) -> Event:
    choice = None if piece.choice is None else _wire_choice(piece.choice)
    return Event(event="piece", id=request_id, text=piece.text, choice=choice)


def _wire_choice(choice: Choice) -> WireChoice:
    taken = choice.token
    top = tuple(map(_wire_token, choice.top))
    return WireChoice(id=taken.id, data=taken.data, logprob=taken.logprob, top=top)


def _wire_token(token: LikelyToken) -> WireToken:
    return WireToken(id=token.id, data=token.data, logprob=token.logprob)


def _overridden(settings: ServiceSettings, arguments: argparse.Namespace) -> ServiceSettings:
    changes = {"n_threads": arguments.threads, "n_ctx": arguments.context}
    return settings.model_copy(update={key: value for key, value in changes.items() if value})


def _private_stdout() -> BinaryIO:
    """The pipe to the gateway; what any library prints goes to stderr instead."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "wb")


def _decode(data: str) -> Image.Image:
    """The picture itself; its header was checked by the gateway."""
    try:
        with Image.open(BytesIO(base64.b64decode(data)), formats=IMAGE_FORMATS) as image:
            image.load()
            return image.copy()
    except Exception as exc:  # whatever a decoder raises, the image is what is wrong
        raise BadImageError from exc


if __name__ == "__main__":
    main()
