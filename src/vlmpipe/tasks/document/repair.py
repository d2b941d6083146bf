"""Broken JSON mended by json_repair, as long as that takes a bounded time."""

from __future__ import annotations

MAX_CHARACTERS = 8_000
"""Of text that json_repair is given. Its time grows with the square of the length: the slowest text
of this length that a search of some thousand found takes it 3 s, one of 16,000 takes four times as
long."""

MAX_DEPTH = 16
"""Brackets left open at one place. Without this bound 4,000 characters of `{{]` take it 26 s."""

MAX_OBJECTS = 8
"""Times that the last open bracket is closed; a thousand objects in a row take it 11 s."""

CLOSES = {"}": "{", "]": "["}


def repaired_json(text: str) -> dict[str, object] | list[object] | None:
    """The JSON object that json_repair reads in `text`, or the list that it begins with.

    None where it finds none, or an empty one. Text beyond one of the bounds above is not tried.
    """
    from json_repair import repair_json

    if len(text) > MAX_CHARACTERS or not _is_simple(text):
        return None
    try:
        found = repair_json(text, return_objects=True, skip_json_loads=True)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict):
        return found or None
    # Brackets in prose are read as lists too.
    return found or None if isinstance(found, list) and text.lstrip().startswith("[") else None


def _is_simple(text: str) -> bool:
    """Whether its brackets stay within the bounds, those within strings counted as well."""
    unclosed: list[str] = []
    objects = 0
    for letter in text:
        if letter in "{[":
            unclosed.append(letter)
        elif letter in CLOSES:
            if unclosed and unclosed[-1] == CLOSES[letter]:
                unclosed.pop()
            objects += not unclosed
        if len(unclosed) > MAX_DEPTH or objects > MAX_OBJECTS:
            return False
    return objects > 0 or bool(unclosed)
