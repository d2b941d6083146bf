"""A sheet for people: pictures and blind pairs of answers in one HTML file."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vlmpipe.errors import ConfigError
from vlmpipe.evaluation.judging.cases import Case
from vlmpipe.evaluation.review.key import Key, KeyItem, write_key
from vlmpipe.evaluation.review.page import Item, item_of, render_page
from vlmpipe.pipeline.files import write_text


@dataclass(frozen=True)
class Sheet:
    """A sheet that was written."""

    name: str
    path: Path
    key: Path
    items: int
    identical: int


def write_sheet(
    cases: Iterable[Case],
    engines: tuple[str, str],
    path: Path,
    key_folder: Path,
    seed: str | None = None,
    identical: int = 0,
) -> Sheet:
    """Write the sheet, and its key into a folder of its own.

    Which answer stands first is drawn for each sample by `seed`; without one, by a secret that only
    the key holds. `identical` samples were left out, since there is nothing to choose in them.

    Raises:
        ConfigError: when there is no pair to judge.
    """
    secret = seed if seed is not None else secrets.token_hex(16)
    items: list[Item] = []
    key_items: dict[str, KeyItem] = {}
    for case in cases:
        name, first = _drawn(secret, case, engines)
        second = engines[first == engines[0]]
        key_items[name] = _key_item(case, first)
        items.append(item_of(name, case, case.answers[first], case.answers[second]))
    if not items:
        raise ConfigError(
            f"{engines[0]} and {engines[1]} gave the same answer to each of {identical} samples",
            "there is nothing to choose between; review other engines: --engines A,B",
        )
    # By their drawn names: the order of the data would let raters guess.
    items.sort(key=lambda item: item.name)
    key = Key(engines=engines, seed=secret, identical=identical, items=key_items)
    kept = write_key(key_folder, key)
    write_text(path, render_page(key.sheet, items))
    return Sheet(key.sheet, path, kept, len(items), identical)


def _drawn(secret: str, case: Case, engines: tuple[str, str]) -> tuple[str, str]:
    """The pair's name in the sheet, and the engine that is shown first."""
    words = f"{secret}\0{case.split}\0{case.sample}"
    digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()
    return digest[:6].hex(), engines[digest[6] & 1]


def _key_item(case: Case, first: str) -> KeyItem:
    return KeyItem(
        sample=case.sample,
        split=case.split,
        task=case.task,
        first=first,
        scores=dict(case.scores),
        answers=case.digests,
    )
