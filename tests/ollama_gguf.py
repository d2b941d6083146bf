"""GGUF headers as a server reads them, and files that are nothing but one."""

from __future__ import annotations

import struct
from typing import Any

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9


def header_only(architecture: str, kind: str = "model") -> bytes:
    """A GGUF file without tensors."""
    pairs = {"general.architecture": architecture, "general.type": kind}
    packed = b"".join(_text(key) + struct.pack("<I", _STRING) + _text(pairs[key]) for key in pairs)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + packed


def header_strings(data: bytes) -> dict[str, str]:
    """The text values of a GGUF header.

    Raises:
        ValueError: in Ollama's words, when it is none.
    """
    if data[:4] != b"GGUF":
        raise ValueError("invalid file magic")
    reader = _Reader(data, 8)
    reader.scalar("Q")
    found = {}
    for _ in range(reader.scalar("Q")):
        key, kind = reader.text(), reader.scalar("I")
        value = reader.value(kind)
        if isinstance(value, str):
            found[key] = value
    return found


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def scalar(self, code: str) -> Any:
        [value] = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        length = self.scalar("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode(errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        inner, count = self.scalar("I"), self.scalar("Q")
        if inner in _SCALARS:
            self.at += count * struct.calcsize(f"<{_SCALARS[inner]}")
            return None
        for _ in range(count):
            self.value(inner)
        return None


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data
