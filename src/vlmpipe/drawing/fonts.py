"""Shipped typefaces: found by name, never on the machine, and asked whether they have a character.

All are under the SIL Open Font License, see `fonts/LICENSE.txt`; `scripts/make_fonts.py` cuts them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from vlmpipe.errors import ArtifactError, StageError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

FOLDER = Path(str(files("vlmpipe.drawing"))) / "fonts"


@dataclass(frozen=True)
class Face:
    """One typeface."""

    name: str
    path: Path
    style: str
    """`print` or `hand` (handwriting)."""

    korean: bool
    """Whether it has Hangul."""

    characters: frozenset[str]

    def lacks(self, text: str) -> list[str]:
        """Characters of `text` that the face cannot draw, in order, each once."""
        return [each for each in dict.fromkeys(text) if each not in self.characters]


@cache
def faces() -> dict[str, Face]:
    """Every shipped face by name."""
    listed = json.loads((FOLDER / "faces.json").read_text(encoding="utf-8"))
    return {
        name: Face(
            name=name,
            path=FOLDER / entry["file"],
            style=entry["style"],
            korean=entry["script"] == "korean",
            characters=frozenset(
                chr(point) for first, last in entry["ranges"] for point in range(first, last + 1)
            ),
        )
        for name, entry in listed.items()
    }


def faces_for(text: str, style: str = "print") -> list[str]:
    """Names of the faces of that style that have every character of `text`, in a fixed order.

    Raises:
        StageError: where none has, naming the characters that no face of the style has.
    """
    fitting = [
        face.name for face in faces().values() if face.style == style and not face.lacks(text)
    ]
    if not fitting:
        raise StageError(
            f"no shipped {style} font can draw {_listed(text, style)}",
            "leave the character out, or replace it by one that the fonts have"
            " (ASCII, common signs, the Hangul of KS X 1001)",
        )
    return fitting


def font(name: str, size: int) -> FreeTypeFont:
    """The face at `size` pixels to the em.

    Raises:
        ArtifactError: for a font file that is missing or damaged.
        KeyError: for a name that is not one of `faces()`.
    """
    return _load(faces()[name].path, size)


@lru_cache(maxsize=256)
def _load(path: Path, size: int) -> FreeTypeFont:
    from PIL import ImageFont

    try:
        # Basic layout: the other one, raqm, is not part of every Pillow.
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as exc:
        raise ArtifactError(
            f"the font file {path} is missing or damaged",
            "install the package again: make setup",
        ) from exc


def _listed(text: str, style: str) -> str:
    styled = [face for face in faces().values() if face.style == style]
    lacking = [
        each for each in dict.fromkeys(text) if all(each not in face.characters for face in styled)
    ] or [each for each in dict.fromkeys(text) if any(each not in f.characters for f in styled)]
    return ", ".join(f"{each!r} (U+{ord(each):04X})" for each in lacking[:8])
