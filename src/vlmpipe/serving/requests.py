"""Bodies of requests: known fields validated, unknown ones dropped, images accepted or refused."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlmpipe.serving.intake import accept_data_url, accept_image
from vlmpipe.serving.problems import invalid_request, unknown_model
from vlmpipe.serving.settings import ServiceSettings
from vlmpipe.serving.wire import WireMessage, WirePart, WireRequest

MAX_TEXT = 200_000
"""Characters in one piece of text; more cannot fit a context."""

MAX_TOP_LOGPROBS = 20
"""As many as OpenAI's interface takes."""

_Body = TypeVar("_Body", bound=BaseModel)


class _Lenient(BaseModel):
    """Unknown fields are dropped: nothing but what is named here reaches the engine."""

    model_config = ConfigDict(extra="ignore", strict=True)


class ChatBody(_Lenient):
    """`POST /chat`."""

    message: str = Field(min_length=1, max_length=MAX_TEXT)
    images: list[str] = []
    max_tokens: int | None = Field(None, ge=1)


class ImageUrl(_Lenient):
    """`image_url` of a part."""

    url: str


class TextPart(_Lenient):
    """A part of type `text`."""

    type: Literal["text"]
    text: str = Field(max_length=MAX_TEXT)


class ImagePart(_Lenient):
    """A part of type `image_url`."""

    type: Literal["image_url"]
    image_url: ImageUrl


class ChatMessage(_Lenient):
    """One turn, in OpenAI's form."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart | ImagePart]


class StreamOptions(_Lenient):
    """`stream_options`."""

    include_usage: bool = False


class CompletionBody(_Lenient):
    """`POST /v1/chat/completions`."""

    model: str | None = None
    messages: list[ChatMessage] = Field(min_length=1, max_length=200)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    @property
    def limit(self) -> int | None:
        """The longest answer asked for."""
        return self.max_completion_tokens or self.max_tokens


def parse(model: type[_Body], content: Any) -> _Body:
    """A body as one of the models above.

    Raises:
        ApiError: naming the first field that is missing or wrong, never its value.
    """
    try:
        return model.model_validate(content)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        path = [str(part) for part in first["loc"] if not _is_tag(part)]
        where = ".".join(path)
        what = "is missing" if first["type"] == "missing" else "is not of the expected form"
        if not where:
            raise invalid_request("the request body is not a JSON object") from exc
        raise invalid_request(f"the field {where} {what}", where) from exc


def _is_tag(part: int | str) -> bool:
    """Parts of a location that name an alternative of a union, not a field."""
    return isinstance(part, str) and (
        part in ("str", "TextPart", "ImagePart") or part.startswith("list[")
    )


def chat_request(body: ChatBody, settings: ServiceSettings) -> WireRequest:
    """What the engine is asked for `POST /chat`: the images, then the message.

    Raises:
        ApiError: for images that are refused.
    """
    _refuse_too_many(len(body.images), settings, "images")
    images = [
        WirePart(image=accept_image(image, settings, f"images.{index}"))
        for index, image in enumerate(body.images)
    ]
    message = WireMessage(role="user", parts=(*images, WirePart(text=body.message)))
    return WireRequest(messages=(message,), max_new_tokens=_limited(body.max_tokens, settings))


def completion_request(body: CompletionBody, settings: ServiceSettings) -> WireRequest:
    """What the engine is asked for `POST /v1/chat/completions`.

    Raises:
        ApiError: another model, several answers, probabilities that cannot be had, a last turn that
            is not the user's, or images that are refused.
    """
    if body.model is not None and body.model != settings.model_id:
        raise unknown_model()
    if body.n not in (None, 1):
        raise invalid_request("one answer a request: n must be 1", "n")
    if body.messages[-1].role != "user":
        raise invalid_request("the last message must be the user's", "messages")
    _refuse_too_many(sum(map(_image_count, body.messages)), settings, "messages")
    messages = tuple(
        _message(message, settings, f"messages.{index}")
        for index, message in enumerate(body.messages)
    )
    return WireRequest(
        messages=messages,
        max_new_tokens=_limited(body.limit, settings),
        top_logprobs=_top_logprobs(body),
    )


def _top_logprobs(body: CompletionBody) -> int | None:
    """How many likeliest tokens come with each token; None where no probabilities are wanted."""
    asked = body.top_logprobs
    if asked is not None and not body.logprobs:
        raise invalid_request("top_logprobs needs logprobs to be true", "top_logprobs")
    if asked is not None and not 0 <= asked <= MAX_TOP_LOGPROBS:
        message = f"top_logprobs must be 0 to {MAX_TOP_LOGPROBS}"
        raise invalid_request(message, "top_logprobs")
    return (asked or 0) if body.logprobs else None


def _limited(asked: int | None, settings: ServiceSettings) -> int:
    return min(asked or settings.max_new_tokens, settings.max_new_tokens)


def _image_count(message: ChatMessage) -> int:
    if isinstance(message.content, str):
        return 0
    return sum(isinstance(part, ImagePart) for part in message.content)


def _refuse_too_many(count: int, settings: ServiceSettings, param: str) -> None:
    if count and not settings.has_vision:
        raise invalid_request("this model takes no images", param)
    if count > settings.max_images:
        raise invalid_request(f"more than {settings.max_images} images in one request", param)


def _message(message: ChatMessage, settings: ServiceSettings, param: str) -> WireMessage:
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return WireMessage(role=role, parts=(WirePart(text=message.content),))
    if role != "user" and _image_count(message):
        raise invalid_request("only the user's messages can hold images", param)
    parts = [
        WirePart(text=part.text)
        if isinstance(part, TextPart)
        else WirePart(image=accept_data_url(part.image_url.url, settings, f"{param}.content.{i}"))
        for i, part in enumerate(message.content)
    ]
    return WireMessage(role=role, parts=tuple(parts))
