"""The task `qa`: a question in text, a short answer in text, no image."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.tasks.base import LANGUAGES, Language
from vlmpipe.tasks.text_metrics import normalised, text_metrics, word_error_rate
from vlmpipe.tasks.text_overlap import overlap_metrics

LONG_ANSWER = 400
"""Characters of an answer that counts as hardest."""

SHIPPED = "qa_ko.jsonl"


@dataclass(frozen=True)
class QuestionAndAnswer:
    """A shipped question; `core` ones are always trained on."""

    id: str
    question: str
    answer: str
    core: bool


class QuestionTask:
    """Questions and answers, judged by agreement with the taught answer."""

    name = "qa"
    instructions: Mapping[Language, str] = {"en": "", "ko": ""}
    primary_metric = "agreement"

    @property
    def always_trained(self) -> frozenset[str]:
        """Ids of the five core questions."""
        return frozenset(each.id for each in shipped_questions() if each.core)

    def generate(
        self,
        index: int,
        seed: int,
        difficulty: tuple[float, float],
        languages: Sequence[Language] = LANGUAGES,
    ) -> Sample:
        """Shipped question number `index` of those in the range, from the start again at the end.

        Fixed questions in Korean, in the order of the file: `seed` and `languages` change nothing.
        A range that holds none of them is ignored.
        """
        low, high = difficulty
        every = shipped_questions()
        fitting = [qa for qa in every if low <= self.difficulty(qa.answer) <= high] or every
        number = index % len(fitting)
        chosen = fitting[number]
        return Sample(
            id=chosen.id,
            messages=(
                Message("user", (chosen.question,)),
                Message("assistant", (chosen.answer,)),
            ),
            task=self.name,
            difficulty=self.difficulty(chosen.answer),
            origin=f"{SHIPPED}:{every.index(chosen) + 1}",
        )

    def difficulty(self, reference: str) -> float:
        """The answer's length: 0 when empty, 1 from 400 characters on."""
        return round(min(1.0, len(normalised(reference)) / LONG_ANSWER), 6)

    def canonical(self, answer: str) -> str | None:
        """The answer with its white space and Unicode forms made one."""
        return normalised(answer)

    def render(self, answer: str) -> str | None:
        """A paragraph."""
        return f"<p>{html.escape(answer)}</p>"

    def measure(self, prediction: str, reference: str) -> Mapping[str, float]:
        """`exact_match`, `agreement`, `cer`, `wer`, `chrf`, `bleu` and `rouge_l`."""
        return {
            **text_metrics(prediction, reference),
            "wer": word_error_rate(prediction, reference),
            **overlap_metrics(prediction, reference),
        }


@lru_cache(maxsize=1)
def shipped_questions() -> tuple[QuestionAndAnswer, ...]:
    """Korean technical questions, the core ones first."""
    text = (resources.files("vlmpipe.tasks") / "data" / SHIPPED).read_text(encoding="utf-8")
    return tuple(_parse(json.loads(line)) for line in text.splitlines())


def _parse(record: Mapping[str, object]) -> QuestionAndAnswer:
    match record:
        case {
            "id": str(name),
            "core": bool(core),
            "messages": [{"content": str(question)}, {"content": str(answer)}],
        }:
            return QuestionAndAnswer(name, question, answer, core)
    raise ValueError(f"not a question with its answer: {record!r}")
