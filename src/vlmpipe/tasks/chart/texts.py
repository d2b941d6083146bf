"""Words of charts: labels, titles, steps and questions of about a length asked for."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from vlmpipe.tasks.base import Language

SEVERAL_WORDS = 7
"""Characters from which a phrase may have more than one word."""


@dataclass(frozen=True)
class Terms:
    """What charts are named with in one language."""

    words: tuple[str, ...]
    series: tuple[tuple[str, ...], ...]
    """Categories that follow one another: months, years, regions."""

    units: tuple[str, ...]
    subjects: tuple[str, ...]
    verbs: tuple[str, ...]
    states: tuple[str, ...]
    starts: tuple[str, ...]
    ends: tuple[str, ...]
    answers: tuple[tuple[str, str], ...]
    """Labels of a decision's two arrows."""

    step: str
    question: str
    more: str
    """Patterns in which the parts are put together."""


@cache
def terms_of(language: Language) -> Terms:
    """The shipped terms of a language."""
    data = resources.files("vlmpipe.tasks") / "data"
    listed: dict[str, Any] = json.loads((data / "chart_terms.json").read_text("utf-8"))[language]
    if language == "en":
        listed["words"] = (data / "words.txt").read_text("utf-8").split()
    for name in ("series", "answers"):
        listed[name] = map(tuple, listed[name])
    lists = {name: tuple(part) for name, part in listed.items() if not isinstance(part, str)}
    return Terms(**(listed | lists))


def labels(rng: random.Random, language: Language, count: int, length: float) -> tuple[str, ...]:
    """So many different labels; a run of months or the like where short ones are asked for."""
    terms, length = terms_of(language), length * _density(language)
    runs = [run for run in terms.series if len(run) >= count]
    if length < 9 and runs and rng.random() < 0.4:
        run = rng.choice(runs)
        start = rng.randint(0, len(run) - count)
        return run[start : start + count]
    return distinct(lambda: _phrase(rng, terms.words, length), count)


def distinct(draw: Callable[[], str], count: int) -> tuple[str, ...]:
    """So many draws, no two alike; a number is added to one that keeps coming back."""
    found: dict[str, None] = {}
    while len(found) < count:
        text = next((each for each in (draw() for _ in range(20)) if each not in found), draw())
        found[text if text not in found else f"{text} {len(found) + 1}"] = None
    return tuple(found)


def phrase(rng: random.Random, language: Language, length: float) -> str:
    """One word, or several until about so many characters are reached."""
    return _phrase(rng, terms_of(language).words, length * _density(language))


def _phrase(rng: random.Random, words: tuple[str, ...], length: float) -> str:
    text = rng.choice(_short(words, length))
    while length >= SEVERAL_WORDS and len(text) + 3 < length:
        text += " " + rng.choice(_short(words, length - len(text)))
    return text


def title(rng: random.Random, language: Language, length: float) -> str:
    """A phrase that begins as titles do."""
    return _capitalised(phrase(rng, language, length))


def step(rng: random.Random, language: Language, length: float) -> str:
    """What a box of a flowchart says; one word where less than 8 characters are asked for."""
    terms = terms_of(language)
    if length < 8:
        return _capitalised(rng.choice((*terms.verbs, *terms.subjects)))
    text = terms.step.format(verb=rng.choice(terms.verbs), subject=rng.choice(terms.subjects))
    if length > len(text) + 6:
        more = terms.more.format(word=rng.choice(terms.words), other=rng.choice(terms.words))
        text = f"{text} {more}" if language == "en" else f"{more} {text}"
    return _capitalised(text)


def question(rng: random.Random, language: Language, length: float) -> str:
    """What a diamond of a flowchart asks."""
    terms = terms_of(language)
    state = rng.choice(terms.states)
    if length < 8:
        return _capitalised(f"{state}?")
    return _capitalised(terms.question.format(subject=rng.choice(terms.subjects), state=state))


def _density(language: Language) -> float:
    """Korean says the same in about half as many characters, each a syllable."""
    return 0.6 if language == "ko" else 1.0


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _short(words: tuple[str, ...], length: float) -> tuple[str, ...]:
    fitting = tuple(word for word in words if len(word) <= max(4, length))
    return fitting or words
