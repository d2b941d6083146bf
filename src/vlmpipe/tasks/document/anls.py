"""ANLS*: how near the texts of an answer's fields come to those of the reference.

Peer, Schöpf, Nebendahl, Rietzler, Stabinger: ANLS* - A Universal Document Processing Metric for
Generative Large Language Models (arXiv 2402.03848), by the authors' own package.
"""

from __future__ import annotations

import json

MAX_REFERENCE = 3_000
"""Characters of JSON; ANLS* of a larger reference is not measured. The package is pure Python, and
its time grows with the product of both lengths: 3,000 against 6,000 take it up to some 4 s."""

MAX_PREDICTION = 2 * MAX_REFERENCE

MAX_LISTS = 4
"""Lists within lists of a reference; each one more multiplies the package's time."""


def anls_star(given: object, asked: object) -> float | None:
    """Mean similarity of the fields of both, 0 to 1; a field less alike than half counts as 0.

    None for a reference that is too large. An answer twice as long as any such reference is 0.
    """
    from anls_star import anls_score

    if len(_text(asked)) > MAX_REFERENCE or _lists_within(asked) > MAX_LISTS:
        return None
    if len(_text(given)) > MAX_PREDICTION:
        return 0.0
    return float(anls_score(asked, given))


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _lists_within(value: object) -> int:
    if isinstance(value, dict):
        return max(map(_lists_within, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_lists_within, value), default=0)
    return 0
