"""What a caption states that can be checked: kinds, counts, names, values, and what leads where."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from vlmpipe.tasks.text_metrics import composed

MAX_CHARACTERS = 20_000
"""Of a longer text only so much is looked at."""

KINDS: dict[str, tuple[str, ...]] = {
    "bar chart": ("bar chart", "막대그래프"),
    "line chart": ("line chart", "꺾은선그래프"),
    "pie chart": ("pie chart", "원그래프"),
    "flowchart": ("flowchart", "순서도"),
    "figure": ("geometric figure", "도형 그림"),
    "structure": ("ring structure", "고리 구조"),
}
"""What a picture shows, in each language."""

NOUNS: dict[str, tuple[str, ...]] = {
    "title": ("titled", "제목이"),
    "bar": ("bars", "bar", "막대"),
    "point": ("points", "point", "점"),
    "slice": ("slices", "slice", "조각"),
    "box": ("boxes", "box", "상자"),
    "end": ("ends", "end", "끝점"),
    "decision": ("decisions", "decision", "판단"),
    "arrow": ("arrows", "arrow", "화살표"),
    "start": ("starting at", "시작은"),
    "largest": ("largest", "가장 큰 것"),
    "smallest": ("smallest", "가장 작은 것"),
    "circle": ("circles", "circle", "원"),
    "square": ("squares", "square", "정사각형"),
    "triangle": ("triangles", "triangle", "삼각형"),
    "rectangle": ("rectangles", "rectangle", "직사각형"),
    "diamond": ("diamonds", "diamond", "마름모"),
    "pentagon": ("pentagons", "pentagon", "오각형"),
    "hexagon": ("hexagons", "hexagon", "육각형"),
    "ring": ("rings", "ring", "고리"),
    "atom": ("atoms", "atom", "원자"),
    "double bond": ("double bonds", "double bond", "이중 결합"),
    "group": ("groups", "group", "작용기"),
}
"""What is counted and named in it; plural first, then singular."""

MEANING = {word: name for name, words in (KINDS | NOUNS).items() for word in words}
WORDS = "|".join(
    rf"(?<!\w){re.escape(word)}(?=\W|$|[은는이인])"
    for word in sorted(MEANING, key=len, reverse=True)
)
TOKEN = re.compile(
    rf'"(?P<label>[^"\n]{{1,200}})"|(?P<word>{WORDS})|(?P<number>\d{{1,15}}(?:\.\d{{1,15}})?)',
    re.IGNORECASE,
)
LEADS = re.compile(r" leads to | 다음은 ")
VALUE = re.compile(r"\s?\(")
IS = re.compile(r"\s*(?:is|은|는)?\s*")


@dataclass(frozen=True)
class _Token:
    kind: str
    """`label`, `word` or `number`."""

    meaning: str
    start: int
    end: int


def facts_in(text: str) -> Counter[Hashable]:
    """Facts with how often they are stated.

    Labels are what stands in double quotes. A number belongs to the word beside it (`3 bars`,
    `막대 3개`) or to the label before it (`"south" (40)`), a label to the word before it
    (`circle "A"`, `the largest is "south"`) and to one that leads to it.
    """
    # Single spaces: what is looked for between tokens is found in linear time.
    whole = " ".join(composed(text[:MAX_CHARACTERS]).split())
    tokens = list(_tokens(whole))
    facts: Counter[Hashable] = Counter(dict.fromkeys(_kinds(tokens), 1))
    facts.update(("label", each.meaning) for each in tokens if each.kind == "label")
    counted: set[_Token] = set()
    for left, right in itertools.pairwise(tokens):
        relation = _relation(left, right, whole[left.end : right.start])
        if relation:
            facts[relation] += 1
            counted |= {left, right}
    facts.update(
        ("number", each.meaning) for each in tokens if each.kind == "number" and each not in counted
    )
    return facts


def fact_f1(prediction: str, reference: str) -> float:
    """F1 over the facts of both texts; over their words where the reference states no facts."""
    facts, truth = facts_in(prediction), facts_in(reference)
    if not truth:
        facts, truth = _words(prediction), _words(reference)
    total = facts.total() + truth.total()
    return 2 * (facts & truth).total() / total if total else 1.0


def _tokens(text: str) -> Iterator[_Token]:
    for match in TOKEN.finditer(text):
        kind = match.lastgroup or ""
        yield _Token(kind, _meaning(kind, match[kind]), *match.span())


def _meaning(kind: str, text: str) -> str:
    if kind == "word":
        return MEANING[text.lower()]
    return format(float(text), ".12g") if kind == "number" else " ".join(text.split())


def _kinds(tokens: list[_Token]) -> list[str]:
    return [each.meaning for each in tokens if each.kind == "word" and each.meaning in KINDS]


def _relation(left: _Token, right: _Token, between: str) -> Hashable:
    """The fact that two neighbours state together, or None."""
    kinds = left.kind, right.kind
    if kinds in {("word", "number"), ("number", "word")} and not between.strip():
        word, number = sorted((left, right), key=lambda each: each.kind, reverse=True)
        return "count", word.meaning, number.meaning
    if kinds == ("label", "number") and VALUE.fullmatch(between):
        return "value", left.meaning, right.meaning
    if kinds == ("word", "label") and IS.fullmatch(between):
        return "name", left.meaning, right.meaning
    if kinds == ("label", "label") and (LEADS.fullmatch(between) or VALUE.fullmatch(between)):
        return "leads", left.meaning, right.meaning
    return None


def _words(text: str) -> Counter[Hashable]:
    return Counter(composed(text[:MAX_CHARACTERS]).lower().split())
