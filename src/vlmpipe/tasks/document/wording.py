"""The words that stand on forms, by language: labels, options, and what is filled in."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict

from vlmpipe.tasks.base import Language


class Wording(BaseModel):
    """`words/en.json` and `words/ko.json`; a label or title has several variants."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    surnames: tuple[str, ...]
    given: dict[str, tuple[str, ...]]
    """By sex."""

    hospitals: tuple[str, ...]
    banks: tuple[str, ...]
    diagnoses: tuple[tuple[str, str], ...]
    """Name and code."""

    surgeries: tuple[str, ...]
    items: dict[str, tuple[str, ...]]
    titles: dict[str, tuple[str, ...]]
    labels: dict[str, tuple[str, ...]]
    choices: dict[str, dict[str, str]]
    """Value to its words, of each field that is a choice of boxes."""

    yes: str
    no: str
    item_titles: dict[str, str]
    item_columns: dict[str, str]
    sections: dict[str, str]
    signers: dict[str, str]
    signature: str
    form_number: str
    seals: dict[str, str]
    fine_print: tuple[str, ...]


@cache
def wording(language: Language) -> Wording:
    """The shipped words of that language."""
    path = resources.files("vlmpipe.tasks.document") / "words" / f"{language}.json"
    return Wording.model_validate(json.loads(path.read_text(encoding="utf-8")))
