"""What a column of a synthetic table holds: its heading, and the texts of its cells."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from vlmpipe.tasks.base import Language

Kind = Literal["word", "count", "decimal", "percent", "money", "measure", "phrase"]

MONEY: Mapping[Language, Sequence[tuple[str, str]]] = {
    "en": (("$", ""), ("$", ""), ("€", ""), ("₩", "")),
    "ko": (("₩", ""), ("", "원"), ("$", "")),
}
"""What stands before and after an amount."""

LONGEST_PHRASE = 40
MOST_DIGITS = 9


@dataclass(frozen=True)
class Column:
    """One column: how its cells are written."""

    kind: Kind
    heading: str
    language: Language
    length: float
    """Characters of a usual cell."""

    decimals: int = 0
    grouped: bool = True
    """Whether thousands are separated."""

    signed: bool = False
    prefix: str = ""
    suffix: str = ""
    capital: bool = False

    def cell(self, rng: random.Random) -> str:
        """The text of one more cell."""
        if self.kind == "word":
            text = _words(rng, self.length * rng.uniform(0.7, 1.3), self.language)
            return text.capitalize() if self.capital else text
        if self.kind == "phrase":
            length = min(LONGEST_PHRASE, self.length * rng.uniform(3, 6))
            return _words(rng, length, self.language).capitalize()
        return self.prefix + self._number(rng) + self.suffix

    def _number(self, rng: random.Random) -> str:
        affixes = len(self.prefix) + len(self.suffix) + self.decimals + bool(self.decimals)
        digits = round(self.length * rng.uniform(0.5, 1.2)) - affixes
        digits = max(1, min(digits, 2 if self.kind == "percent" else MOST_DIGITS))
        whole = rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
        text = f"{whole:,}" if self.grouped else str(whole)
        if self.decimals:
            text += f".{rng.randrange(10**self.decimals):0{self.decimals}d}"
        return "-" + text if self.signed and rng.random() < 0.3 else text


def random_column(
    rng: random.Random,
    kind: Kind,
    length: float,
    language: Language,
    taken: Collection[str] = (),
) -> Column:
    """A column of cells of about `length` characters, the heading no longer than that allows.

    Its heading is none of those `taken` while there are others.
    """
    headings = _data()[language][kind]
    fitting = _short_enough(headings, length)
    fresh = [place for place in fitting if headings[place] not in taken]
    place = rng.choice(fresh or fitting)
    heading, prefix, suffix = headings[place], "", ""
    if kind == "money":
        prefix, suffix = rng.choice(MONEY[language])
    elif kind == "percent":
        suffix = "%"
    elif kind == "measure":
        unit = rng.choice(_data()["units"][place])
        in_heading = rng.random() < 0.5
        heading += f" ({unit})" * in_heading
        suffix = "" if in_heading else f" {unit}"
    return Column(
        kind=kind,
        heading=heading,
        language=language,
        length=length,
        decimals=_decimals(rng, kind, length, whole=suffix == "원" or prefix == "₩"),
        grouped=rng.random() < 0.85,
        signed=kind in ("decimal", "percent") and length > 3 and rng.random() < 0.25,
        prefix=prefix,
        suffix=suffix,
        capital=rng.random() < 0.5,
    )


def _short_enough(headings: Sequence[str], length: float) -> list[int]:
    """Places of the headings that suit such cells: those of four letters always do."""
    return [place for place, each in enumerate(headings) if len(each) <= max(4, 1.6 * length)]


def _decimals(rng: random.Random, kind: Kind, length: float, whole: bool) -> int:
    if kind == "decimal":
        return 1 if length < 4 else rng.randint(1, 3)
    if whole or length < 5:
        return 0
    return {"money": 2, "percent": 1, "measure": 1}.get(kind, 0) * rng.choice((0, 1))


def _words(rng: random.Random, length: float, language: Language) -> str:
    text = rng.choice(_words_of(round(length), language))
    while len(text) + 3 < length:
        text += " " + rng.choice(_words_of(round(length) - len(text) - 1, language))
    return text


@cache
def _words_of(length: int, language: Language) -> list[str]:
    """Words of at most so many letters; English ones of four and Korean ones of two always fit."""
    text = _shipped({"en": "words.txt", "ko": "table_words_ko.txt"}[language])
    return [word for word in text.split() if len(word) <= max(4 if language == "en" else 2, length)]


@cache
def _data() -> Any:
    """Headings by language and kind, and units by the place of a measure's heading."""
    return json.loads(_shipped("table_headings.json"))


def _shipped(name: str) -> str:
    return (resources.files("vlmpipe.tasks") / "data" / name).read_text(encoding="utf-8")
