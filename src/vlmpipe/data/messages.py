"""The `messages` format: one conversation a line, as JSON.

    {"messages": [{"role": "user", "content": [{"type": "image", "image": "images/1.png"},
                                               {"type": "text", "text": "Read it."}]},
                  {"role": "assistant", "content": "…"}], "id": "1", "task": "table"}

Content is a list of parts or one text. Images may stand beside the messages instead, as
`"images": ["1.png"]`; each then fills an `<image>` in a text or a part `{"type": "image"}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from vlmpipe.data.problems import SampleError
from vlmpipe.encoding.conversation import Role

IMAGE_PLACE = "<image>"
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class ImageName:
    """A path as it stands in the file."""

    path: str


@dataclass(frozen=True)
class RawMessage:
    """A turn whose images are not yet read."""

    role: Role
    parts: tuple[str | ImageName, ...]


@dataclass(frozen=True)
class Record:
    """One line of a file."""

    messages: tuple[RawMessage, ...]
    id: str | None = None
    task: str | None = None

    @property
    def image_names(self) -> tuple[str, ...]:
        """Paths of its images, as they stand in the file."""
        parts = (part for message in self.messages for part in message.parts)
        return tuple(part.path for part in parts if isinstance(part, ImageName))


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that hold something, with their number from 1."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if text:
                yield number, text


def parse_record(line: bytes) -> Record:
    """One line of the file.

    Raises:
        SampleError: when it is not JSON, lacks something, or is no conversation that ends with an
            assistant's answer.
    """
    record = _json_object(line)
    turns = record.get("messages")
    if not isinstance(turns, list) or not turns:
        raise SampleError('"messages" is not a list of turns')
    beside = _images_beside(record)
    messages = tuple(_message(turn, place, beside) for place, turn in enumerate(turns, start=1))
    if beside:
        raise SampleError(f'{len(beside)} of "images" fill no {IMAGE_PLACE} in the messages')
    _refuse_broken_order(messages)
    return Record(messages, _name(record, "id"), _name(record, "task"))


def _json_object(line: bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise SampleError(f"not UTF-8 text at byte {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise SampleError(f"not valid JSON: {exc.msg} at column {exc.colno}") from exc
    except (ValueError, RecursionError) as exc:
        raise SampleError("not usable JSON: a number too long or nesting too deep") from exc
    if not isinstance(record, dict):
        raise SampleError(f"holds {_kind(record)}, not an object")
    return record


def _name(record: Mapping[str, Any], key: str) -> str | None:
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise SampleError(f'"{key}" is {_kind(value)}, not a name')
    return _checked_text(str(value), f'"{key}"')


def _images_beside(record: Mapping[str, Any]) -> list[ImageName]:
    names = record.get("images")
    if names is None:
        return []
    if not isinstance(names, list):
        raise SampleError(f'"images" is {_kind(names)}, not a list of paths')
    return [_image_name(name) for name in names]


def _message(turn: Any, place: int, beside: list[ImageName]) -> RawMessage:
    if not isinstance(turn, dict):
        raise SampleError(f"message {place} is {_kind(turn)}, not an object")
    role, content = turn.get("role"), turn.get("content")
    if role not in ROLES:
        raise SampleError(f"message {place} has role {role!r}, not one of {', '.join(ROLES)}")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise SampleError(f"message {place} has {_kind(content)} as content, not text or parts")
    try:
        parts = tuple(part for item in content for part in _parts(item, beside))
    except SampleError as exc:
        raise SampleError(f"message {place}: {exc}") from exc
    return RawMessage(role, parts)


def _parts(item: Any, beside: list[ImageName]) -> Iterator[str | ImageName]:
    match item:
        case {"type": "text", "text": str(text)}:
            yield from _text_parts(_checked_text(text, "a text"), beside)
        case {"type": "image", "image": path}:
            yield _image_name(path)
        case {"type": "image"} if beside:
            yield beside.pop(0)
        case {"type": "image"}:
            raise SampleError('an image part names no "image"')
        case {"type": kind}:
            raise SampleError(f"a part of type {kind!r} is neither text nor image, or lacks it")
        case _:
            raise SampleError(f"a part is {_kind(item)} without a type")


def _text_parts(text: str, beside: list[ImageName]) -> Iterator[str | ImageName]:
    """The text cut at each `<image>` that an image beside the messages is there for."""
    while beside and IMAGE_PLACE in text:
        before, _, text = text.partition(IMAGE_PLACE)
        if before:
            yield before
        yield beside.pop(0)
    if text:
        yield text


def _image_name(path: Any) -> ImageName:
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise SampleError(f"an image is {_kind(path)}, not the path of a file")
    if "://" in path or path.startswith("data:"):
        raise SampleError(f"image {path[:60]!r} is an address; save it as a file")
    return ImageName(_checked_text(path, "an image's path"))


def _checked_text(text: str, what: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise SampleError(f"{what} holds half a character (a lone surrogate)") from exc
    return text


def _refuse_broken_order(messages: tuple[RawMessage, ...]) -> None:
    """An optional system turn, then user and assistant in turns, the assistant last."""
    turns = messages[1:] if messages[0].role == "system" else messages
    for place, message in enumerate(turns):
        expected = "assistant" if place % 2 else "user"
        if message.role != expected:
            raise SampleError(f"a turn of {message.role!r} stands where {expected!r} belongs")
    if not turns or turns[-1].role != "assistant":
        raise SampleError("no assistant answer at the end")
    for message in messages:
        _refuse_empty(message)


def _refuse_empty(message: RawMessage) -> None:
    texts = [part for part in message.parts if isinstance(part, str)]
    if message.role != "user" and len(texts) < len(message.parts):
        raise SampleError(f"a {message.role} turn holds an image")
    if not "".join(texts).strip() and len(texts) == len(message.parts):
        raise SampleError(
            "the answer is empty"
            if message.role == "assistant"
            else f"a {message.role} turn is empty"
        )


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    if value is None:
        return "nothing"
    return names.get(type(value), "a number")
