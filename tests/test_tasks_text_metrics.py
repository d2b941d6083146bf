"""Error rates, BLEU, chrF and ROUGE-L: hand-worked cases, bounds, and texts of any size."""

from __future__ import annotations

import unicodedata

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_char import TokenizerChar

from vlmpipe.tasks import TASKS, text_metrics, text_overlap
from vlmpipe.tasks.text_metrics import character_error_rate, composed, word_error_rate
from vlmpipe.tasks.text_overlap import overlap_metrics

QA = TASKS["qa"]
RATES = {"cer", "wer"}
texts = st.text(max_size=60) | st.text("ab 가나.\u0301漢か", max_size=60)
few = settings(deadline=None, max_examples=80)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("the cat sat", "the cat sat", 0.0),
        ("the  cat\nsat ", "the cat sat", 0.0),
        ("the cat", "the cat sat", 1 / 3),
        ("the dog sat down", "the cat sat", 2 / 3),
        ("", "the cat sat", 1.0),
        ("", " ", 0.0),
        ("a", "", 1.0),
        ("도커는 플랫폼이다", "도커는 플랫폼입니다", 1 / 2),
        ("a b c d e", "a", 4.0),
    ],
)
def test_word_error_rate(prediction: str, reference: str, expected: float) -> None:
    assert word_error_rate(prediction, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        # LCS "the sat" of 3 and 3 words; of 2 and 4; letters of any case.
        ("the dog sat", "the cat sat", 2 / 3),
        ("sat the", "the cat sat down", 2 * 1 / 6),
        ("The CAT, sat!", "the cat sat", 1.0),
        # Korean words with their particles: 도커는 alone is common to 3 and 3.
        ("도커는 컨테이너 도구다", "도커는 실행 플랫폼이다", 1 / 3),
        # Chinese has a word a character: 3 of 4 and 4.
        ("我爱北京", "我在北京", 3 / 4),
        ("!?", "?!", 0.0),
    ],
)
def test_rouge_l(prediction: str, reference: str, expected: float) -> None:
    assert overlap_metrics(prediction, reference)["rouge_l"] == pytest.approx(expected)


def test_bleu_of_english_counts_words() -> None:
    # Precisions 3/4, 1/3, then smoothed 1/(2*2) and 1/(4*1); lengths equal, so no brevity penalty.
    expected = (3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** (1 / 4)
    assert overlap_metrics("a b x d", "a b c d")["bleu"] == pytest.approx(expected)


def test_bleu_of_korean_counts_characters() -> None:
    # 4 of 5 characters; 2 of 4 pairs; smoothed 1/(2*3) triples and 1/(4*2) fours.
    expected = (4 / 5 * 2 / 4 * 1 / 6 * 1 / 8) ** (1 / 4)
    assert overlap_metrics("가나하다라", "가나마다라")["bleu"] == pytest.approx(expected)
    answer, truth = "도커는 도구다", "도커는 도구이다"
    by_word = BLEU(effective_order=True).sentence_score(answer, [truth]).score / 100
    assert by_word == pytest.approx(0.5)
    assert overlap_metrics(answer, truth)["bleu"] > 0.6


def test_chrf_of_short_texts() -> None:
    # One character of two is right, no pair is: F2 of orders 1 and 2 is 0.5 and 0.
    assert overlap_metrics("ab", "ac")["chrf"] == pytest.approx(0.25)
    assert overlap_metrics("a b", "ab")["chrf"] == 1.0


def test_a_decomposed_answer_is_the_same_text() -> None:
    text = "도커는 컨테이너를 실행합니다."
    marks = QA.measure(unicodedata.normalize("NFD", text), text)
    assert marks == {name: float(name not in RATES) for name in marks}


def test_only_blank_answers_score_full_for_blank_references() -> None:
    assert set(overlap_metrics(" ", "").values()) == {1.0}
    assert set(overlap_metrics("x", "").values()) == set(overlap_metrics("", "x").values()) == {0.0}


@few
@given(texts, texts)
def test_metrics_keep_to_their_bounds_and_identity_is_best(one: str, other: str) -> None:
    marks, own = QA.measure(one, other), QA.measure(other, other)
    assert all(0.0 <= value <= 1.0 for name, value in marks.items() if name not in RATES)
    assert min(marks.values()) >= 0.0
    assert own == {name: float(name not in RATES) for name in own}
    back = overlap_metrics(other, one)
    assert marks["rouge_l"] == pytest.approx(back["rouge_l"])


@few
@given(st.text("ab c가", min_size=1, max_size=40), st.text("ab c가", min_size=1, max_size=40))
def test_error_rates_are_those_of_jiwer(one: str, other: str) -> None:
    if other.strip():
        assert character_error_rate(one, other) == pytest.approx(jiwer.cer(other, one))
        assert word_error_rate(one, other) == pytest.approx(jiwer.wer(other, one))


@few
@given(st.text("ab ", max_size=30), st.text("ab ", max_size=30))
def test_a_bound_never_flatters(one: str, other: str) -> None:
    full = QA.measure(one, other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_metrics, "MAX_UNITS", 8)
        cut = QA.measure(one, other)
    assert cut["cer"] >= full["cer"]
    assert cut["wer"] >= full["wer"]


def test_what_follows_the_part_that_is_compared_counts_as_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_overlap, "MAX_CHARACTERS", 8)
    same, different = overlap_metrics("a b c d e f", "a b c d e f"), overlap_metrics(
        "a b c d x y z w", "a b c d e f g h"
    )  # fmt: skip
    assert set(same.values()) == {1.0}
    assert different["rouge_l"] == pytest.approx(8 / 15)


def test_marks_without_end_are_left_as_they_are() -> None:
    assert composed("e\u0301") == "é"
    assert composed("a" + "\u0327\u0301" * 15) == unicodedata.normalize(
        "NFC", "a" + "\u0327\u0301" * 15
    )
    endless = "a" + "\u0301\u0327" * 500_000
    assert composed(endless) == endless


@pytest.mark.parametrize(
    "text",
    ["a" * 1_000_000, "가나 " * 300_000, "\ud800" * 200_000, "\0" * 1_000_000, "漢" * 500_000],
    ids=lambda text: repr(text[:4]),
)
def test_huge_answers_are_scored_within_bounds(text: str) -> None:
    marks = QA.measure(text, "도커는 컨테이너입니다.")
    assert marks["agreement"] == marks["rouge_l"] == 0.0
    assert marks["bleu"] < 0.01
    assert marks["cer"] > 1000
    assert QA.measure(text, text)["agreement"] == 1.0


def test_no_text_is_kept_after_it_was_scored() -> None:
    for text in ("a b c", "가 나 다"):
        overlap_metrics(f"{text} x", text)
    assert Tokenizer13a.__call__.cache_info().currsize == 0
    assert TokenizerChar.__call__.cache_info().currsize == 0
