"""Faults of a configuration in words: dotted path, what is wrong, the value, a near miss."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_shown = reprlib.Repr()  # long values are shown in part
_shown.maxstring = _shown.maxother = 80


def describe_errors(root: type[BaseModel], error: ValidationError) -> list[str]:
    """One line for each fault that pydantic found in a tree meant for `root`."""
    return [_describe(root, detail) for detail in error.errors(include_url=False)]


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation holds, itself or as the elements of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    sections = (section_of(inner) for inner in get_args(annotation))
    return next((section for section in sections if section), None)


def leaf_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted path of every key that holds a value; a list counts as one."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaf_keys(field.annotation, f"{key}.")
        else:
            yield key


def _describe(root: type[BaseModel], detail: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in detail["loc"]) or "configuration"
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return f"{path}: unknown key{_near_miss(root, detail['loc'])}"
    if kind == "missing":
        return f"{path}: must be given"
    if kind == "model_type":
        return f"{path}: is a section of keys, got {_shown.repr(value)}"
    message = detail["msg"].removeprefix("Value error, ")
    text = f"{path}: {message[:1].lower()}{message[1:]}".replace("valid tuple", "list")
    if not isinstance(value, Mapping):
        text += f", got {_shown.repr(value)}"
    return text + _way_out(kind, path, value)


def _way_out(kind: str, path: str, value: Any) -> str:
    if kind == "tuple_type":
        return f"; give the whole list, as JSON on the command line: {path}='[...]'"
    if kind == "string_type" and isinstance(value, int | float):
        return f"""; to mean the text, quote it: {path}='"{value}"'"""
    return ""


def _near_miss(root: type[BaseModel], location: Sequence[Any]) -> str:
    wrong, known = str(location[-1]), _keys_at(root, location[:-1])
    elsewhere = [key for key in leaf_keys(root) if key.rpartition(".")[2] == wrong]
    close = difflib.get_close_matches(wrong, known, n=1) or elsewhere
    if close:
        return f"; did you mean {' or '.join(repr(key) for key in close)}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _keys_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        section = section_of(fields[part].annotation) if part in fields else None
        if section is None:
            return []
        model = section
    return [field.alias or name for name, field in model.model_fields.items()]
