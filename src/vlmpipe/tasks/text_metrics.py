"""How close one text is to another: exact match, character and word error rates, agreement."""

from __future__ import annotations

import unicodedata

MAX_UNITS = 20_000
"""Characters or words of either text that are compared; all that follow count as wrong."""

MAX_MARKS = 30
"""Combining marks in a row, the bound of Unicode's stream-safe text format (UAX #15). No writing
has more, and putting them in order takes time quadratic in their number: 100,000 take 15 s."""


def composed(text: str) -> str:
    """Canonical composition (NFC); text with more than 30 combining marks in a row stays as it is.

    The same Korean word decomposed counts more characters, so that a right answer would look wrong.
    """
    if text.isascii():
        return text
    row = 0
    for letter in text:
        row = row + 1 if unicodedata.combining(letter) else 0
        if row > MAX_MARKS:
            return text
    return unicodedata.normalize("NFC", text)


def normalised(text: str) -> str:
    """Canonical composition without surrounding white space."""
    return composed(text).strip()


def exact_match(prediction: str, reference: str) -> float:
    """1.0 when the normalised texts are equal, else 0.0."""
    return float(normalised(prediction) == normalised(reference))


def character_error_rate(prediction: str, reference: str) -> float:
    """Insertions, deletions and substitutions per character of the reference; may exceed 1.

    An empty reference: 0.0 for an empty prediction, 1.0 for any other, since a rate per character
    is not defined there. Of longer texts the first 20,000 characters are compared and all that
    follow count as edits, which never makes the rate too small.
    """
    import jiwer

    given, truth = normalised(prediction), normalised(reference)
    if given == truth or not truth:
        return float(given != truth)
    kept, wanted = given[:MAX_UNITS].rstrip(), truth[:MAX_UNITS].rstrip()
    found = jiwer.process_characters(wanted, kept)
    edits = found.substitutions + found.deletions + found.insertions
    return (edits + max(len(given) - len(kept), len(truth) - len(wanted))) / len(truth)


def word_error_rate(prediction: str, reference: str) -> float:
    """The same of words, which are what white space divides; Korean ones carry their particles."""
    import jiwer

    given, truth = normalised(prediction).split(), normalised(reference).split()
    if given == truth or not truth:
        return float(given != truth)
    kept, wanted = given[:MAX_UNITS], truth[:MAX_UNITS]
    found = jiwer.process_words(" ".join(wanted), " ".join(kept))
    edits = found.substitutions + found.deletions + found.insertions
    return (edits + max(len(given) - len(kept), len(truth) - len(wanted))) / len(truth)


def text_metrics(prediction: str, reference: str) -> dict[str, float]:
    """`exact_match`, `cer`, and `agreement`: 1 - cer, not below 0."""
    error_rate = character_error_rate(prediction, reference)
    return {
        "exact_match": exact_match(prediction, reference),
        "agreement": max(0.0, 1.0 - error_rate),
        "cer": error_rate,
    }
