"""How much of what two texts say they share: BLEU, chrF, ROUGE-L."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from vlmpipe.tasks.text_metrics import normalised

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

MAX_CHARACTERS = 20_000
"""Of either text so much is compared; the score is multiplied by the share that this is of the
longer one, so that what follows counts as wrong."""

_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Kana and Han: written without blanks between words."""

_BY_CHARACTER = re.compile(rf"[{_UNSPACED}\uac00-\ud7a3]")
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def overlap_metrics(prediction: str, reference: str) -> dict[str, float]:
    """`chrf`, `bleu` and `rouge_l`, each 0 to 1: 1 for equal texts, 0 for an empty and another one.

    Each is the score of one answer. Their mean over answers is not the corpus score of papers,
    which adds up counts before it divides.
    """
    given, truth = normalised(prediction), normalised(reference)
    measures = {"chrf": _chrf, "bleu": _bleu, "rouge_l": _rouge_l}
    return {name: _bounded(measure, given, truth) for name, measure in measures.items()}


def _bounded(measure: Callable[[str, str], float], given: str, truth: str) -> float:
    if given == truth:
        return 1.0
    if not given or not truth:
        return 0.0
    share = min(1.0, MAX_CHARACTERS / max(len(given), len(truth)))
    score = measure(given[:MAX_CHARACTERS], truth[:MAX_CHARACTERS])
    return min(1.0, max(0.0, score)) * share


def _chrf(given: str, truth: str) -> float:
    """chrF2: F-score of n-grams of one to six characters, recall counting twice (Popović 2015)."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().sentence_score(given, [truth]).score) / 100


def _bleu(given: str, truth: str) -> float:
    """BLEU of one sentence (Papineni et al. 2002), no order longer than the sentence counted.

    In characters where the reference has Korean, Chinese or Japanese letters, whose particles and
    missing blanks make words too coarse; in the words of `13a` otherwise.
    """
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_char import TokenizerChar
    from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

    metric = _metric("char" if _BY_CHARACTER.search(truth) else "13a")
    score = float(metric.sentence_score(given, [truth]).score) / 100
    for tokenizer in (Tokenizer13a, TokenizerChar, TokenizerRegexp):
        # Each keeps the last 65,536 texts that it was given.
        tokenizer.__call__.cache_clear()
    return score


@cache
def _metric(tokenizer: str) -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenizer, effective_order=True)


def _rouge_l(given: str, truth: str) -> float:
    """F1 over the longest common subsequence of words (Lin 2004), whatever their case.

    A word is a run of Unicode letters and digits, or one kana or Chinese character; rouge-score's
    own tokenizer drops all but a-z and 0-9. Texts without any word: 0.
    """
    from rapidfuzz.distance import LCSseq

    words, others = _words(given), _words(truth)
    if not words or not others:
        return 0.0
    return 2 * LCSseq.similarity(words, others) / (len(words) + len(others))


def _words(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())
