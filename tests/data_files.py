"""Files of samples for tests, well-formed and otherwise."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from vlmpipe.config import Config, parse_config

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def picture(path: Path, colour: tuple[int, int, int] = (200, 30, 30), side: int = 40) -> Path:
    """An image of one colour with a white corner, so that orientation shows."""
    image = Image.new("RGB", (side, side // 2), colour)
    image.paste((255, 255, 255), (0, 0, side // 4, side // 4))
    image.save(path)
    return path


def turns(image: str | None = None, question: str = "Read it.", answer: str = "42") -> Any:
    """The `messages` of one line."""
    content: list[dict[str, str]] = [{"type": "text", "text": question}]
    if image is not None:
        content.insert(0, {"type": "image", "image": image})
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


def write_lines(path: Path, *lines: Any) -> Path:
    """A JSONL file; bytes and text are written as they are, anything else as JSON."""
    with path.open("wb") as stream:
        for line in lines:
            raw = line if isinstance(line, (str, bytes)) else json.dumps(line, ensure_ascii=False)
            stream.write(raw if isinstance(raw, bytes) else raw.encode())
            stream.write(b"\n")
    return path


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG that claims a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def config_for(*sources: Path, **data: Any) -> Config:
    """A configuration that reads these files."""
    listed = [{"path": str(source)} for source in sources]
    return parse_config({"data": {"sources": listed, **data}})
