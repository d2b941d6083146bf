"""How close one text is to another: exact match, character error rate, agreement."""

from __future__ import annotations

import unicodedata


def normalised(text: str) -> str:
    """Canonical composition (NFC) without surrounding white space.

    The same Korean word decomposed counts more characters, so that a right answer would look wrong.
    """
    return unicodedata.normalize("NFC", text).strip()


def exact_match(prediction: str, reference: str) -> float:
    """1.0 when the normalised texts are equal, else 0.0."""
    return float(normalised(prediction) == normalised(reference))


def character_error_rate(prediction: str, reference: str) -> float:
    """Insertions, deletions and substitutions per character of the reference; may exceed 1.

    An empty reference: 0.0 for an empty prediction, 1.0 for any other, since a rate per character
    is not defined there.
    """
    import jiwer

    hypothesis, truth = normalised(prediction), normalised(reference)
    if not truth:
        return float(bool(hypothesis))
    return float(jiwer.cer(truth, hypothesis))


def text_metrics(prediction: str, reference: str) -> dict[str, float]:
    """`exact_match`, `cer`, and `agreement`: 1 - cer, not below 0."""
    error_rate = character_error_rate(prediction, reference)
    return {
        "exact_match": exact_match(prediction, reference),
        "agreement": max(0.0, 1.0 - error_rate),
        "cer": error_rate,
    }
