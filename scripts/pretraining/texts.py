"""What stands on the pages: numbers, words, codes and strings of every kind, none of them a task's.

Words and Hangul are those that the tasks' generators use; formats are not: nothing here is HTML,
Mermaid, SMILES or JSON, but their signs, and the entries of the tokenizer's vocabulary in ASCII,
occur in random strings, so that each can be read and written.
"""

from __future__ import annotations

import itertools
import json
import random
import string
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files

KOREAN_LIST = """
이름 환자 병원 진단 금액 날짜 합계 수술 검사 약품 수량 단가 항목 성별 나이 번호 주소 전화 계좌 은행
의사 서명 청구 보험 입원 외래 퇴원 치료 서울 부산 대구 인천 광주 대전 지역 매출 비용 수익 인구 비율
평균 최대 최소 기준 단위 연도 월별 분기 상반기 하반기 증가 감소 제품 품목 가격 재고 온도 습도 시작
종료 확인 승인 반려 접수 처리 완료 검토 저장 전송 예 아니오 남 여 북부 남부 동부 서부
"""
KOREAN = KOREAN_LIST.split()
SIGNS = string.punctuation + "°±·×µ€–’•₩→"
UNITS = ("%", "mg", "kg", "g", "mL", "cm", "mm", "km", "h", "s", "°C", "$", "€", "₩")
MOST_CHARACTERS = 24


VOCABULARIES = (
    "tasks/data/table_headings.json",
    "tasks/data/chart_terms.json",
    "tasks/document/words/en.json",
)


@cache
def words() -> list[str]:
    """The English words of the tasks, those of `words.txt` ten times as often as the others."""
    package = files("vlmpipe")
    common = package.joinpath("tasks/data/words.txt").read_text(encoding="utf-8").split()
    others: set[str] = set()
    for name in VOCABULARIES:
        tree = json.loads(package.joinpath(name).read_text(encoding="utf-8"))
        others.update(_words_in(tree.get("en", tree)))
    return common * 10 + sorted(others)


def _words_in(tree: object) -> Iterator[str]:
    """Every word of plain letters in a tree of lists and maps."""
    if isinstance(tree, str):
        yield from (each for each in tree.split() if each.isascii() and each.isalpha())
    elif isinstance(tree, dict | list):
        for each in tree.values() if isinstance(tree, dict) else tree:
            yield from _words_in(each)


@cache
def alphabet() -> str:
    """Every character that a page can hold, the space apart; its order numbers the classes."""
    hangul = sorted(set("".join(KOREAN)))
    return string.ascii_letters + string.digits + SIGNS + "".join(hangul)


@cache
def entries() -> tuple[list[str], list[str]]:
    """ASCII entries of two characters or more in the vocabulary: words, and joined signs."""
    path = files("vlmpipe.models").joinpath("data/tokenizer.json")
    vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    # "\u0120" is how byte-level BPE writes a space.
    texts = sorted({entry.replace("\u0120", "") for entry in vocabulary})
    whole = [t for t in texts if len(t) > 1 and t.isascii()]
    return [t for t in whole if t.isalpha()], [t for t in whole if not t.isalpha()]


def cell_text(rng: random.Random, korean: bool) -> str:
    """A short text, as cells, labels and fields hold them."""
    if korean and rng.random() < 0.7:
        return " ".join(rng.choice(KOREAN) for _ in range(rng.choice((1, 1, 2))))
    kind = rng.choices(
        (_number, _word, _phrase, _letters, _code, _signs, _joined_entries),
        (0.39, 0.28, 0.1, 0.07, 0.08, 0.03, 0.05),
    )[0]
    return kind(rng)


def filling_text(
    rng: random.Random,
    korean: bool,
    width: float,
    length_of: Callable[[str], float],
    lacking: Callable[[str], list[str]],
) -> str:
    """Characters of every kind, equally often, with some words and numbers, to fill a width."""
    text, left = "", width
    while True:
        piece = _filling_piece(rng, korean)
        if text and rng.random() < 0.4:
            piece = " " + piece
        if lacking(piece):
            continue
        left -= length_of(piece)
        if left < 0:
            return text or "0"
        text += piece


def _filling_piece(rng: random.Random, korean: bool) -> str:
    if korean and rng.random() < 0.8:
        return rng.choice(KOREAN)
    if rng.random() < 0.3:
        return cell_text(rng, korean)
    pool = string.ascii_letters * 2 + string.digits * 3 + SIGNS
    return "".join(rng.choice(pool) for _ in range(rng.randint(1, 4)))


def _number(rng: random.Random) -> str:
    length = rng.choices(range(1, 10), _FALLING)[0]
    digits = "".join(rng.choice(string.digits) for _ in range(length))
    form = rng.random()
    if form < 0.2 and len(digits) > 1:
        cut = rng.randint(1, len(digits) - 1)
        digits = f"{digits[:cut]}.{digits[cut:]}"
    elif form < 0.3:
        digits = f"{int(digits):,}"
    if rng.random() < 0.12:
        unit = rng.choice(UNITS)
        digits = unit + digits if unit in "$€₩" else digits + rng.choice(("", " ")) + unit
    return "-" + digits if rng.random() < 0.04 else digits


_FALLING = (20, 28, 22, 14, 7, 4, 2, 2, 1)


def _word(rng: random.Random) -> str:
    word = rng.choice(words())
    return rng.choices((word, word.capitalize(), word.upper()), (0.6, 0.36, 0.04))[0]


def _phrase(rng: random.Random) -> str:
    return " ".join(_word(rng) for _ in range(rng.randint(2, 3)))


def _letters(rng: random.Random) -> str:
    letters = rng.choices(
        (string.ascii_lowercase, string.ascii_uppercase, string.ascii_letters), (0.5, 0.25, 0.25)
    )[0]
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, 7)))


def _code(rng: random.Random) -> str:
    return rng.choice((_date, _identifier, _grouped))(rng)


def _date(rng: random.Random) -> str:
    year, month, day = rng.randint(1930, 2030), rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice((f"{year}-{month:02}-{day:02}", f"{year}.{month}.{day}", f"{month}/{day}"))


def _identifier(rng: random.Random) -> str:
    head = "".join(rng.choice(string.ascii_uppercase) for _ in range(rng.randint(1, 2)))
    return head + str(rng.randint(0, 999)) + rng.choice(("", f".{rng.randint(0, 9)}"))


def _grouped(rng: random.Random) -> str:
    return "-".join(str(rng.randint(0, 9999)) for _ in range(rng.randint(2, 3)))


def _signs(rng: random.Random) -> str:
    """Signs mixed with letters and digits, so that no sign is only known from its company."""
    pool = SIGNS * 2 + string.ascii_letters + string.digits
    return "".join(rng.choice(pool) for _ in range(rng.randint(1, 7)))


def _joined_entries(rng: random.Random) -> str:
    words_of_it, signs_of_it = entries()
    drawn = (rng.choice(signs_of_it if rng.random() < 0.6 else words_of_it) for _ in range(3))
    return "".join(itertools.islice(drawn, rng.randint(1, 3)))
