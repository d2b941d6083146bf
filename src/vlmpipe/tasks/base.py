"""What every task owns; a new task is one new file that satisfies this protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from vlmpipe.encoding.conversation import Message, Part, Sample

Language = Literal["en", "ko"]
"""What a document is written in, and asked for in."""

LANGUAGES: tuple[Language, ...] = ("en", "ko")


class Task(Protocol):
    """Prompt, generator, metrics and difficulty of one kind of document."""

    @property
    def name(self) -> str:
        """As it stands in samples and in `data.task`."""

    @property
    def instructions(self) -> Mapping[Language, str]:
        """The prompt that goes with an image of this task, in each language."""

    @property
    def primary_metric(self) -> str:
        """The key of `measure` that verdicts look at; 0 to 1, larger is better."""

    @property
    def always_trained(self) -> frozenset[str]:
        """Ids of generated samples that are never held out."""

    def generate(
        self,
        index: int,
        seed: int,
        difficulty: tuple[float, float],
        languages: Sequence[Language] = LANGUAGES,
    ) -> Sample:
        """Synthetic sample number `index`: the same for the same arguments, on any machine.

        Its measured difficulty lies in the range, or as near as the generator comes; it is written,
        and asked for, in one of `languages`.
        """

    def difficulty(self, reference: str) -> float:
        """How hard it is to produce this answer, 0 to 1, from structure and size of the text."""

    def canonical(self, answer: str) -> str | None:
        """The answer in the task's one form, where two that mean the same are equal; None for
        text that is not in the task's format.
        """

    def render(self, answer: str) -> str | None:
        """The answer as people look at it: an HTML or SVG fragment for the report; None for text
        that is not in the task's format.

        Answers are untrusted: their text is escaped, and the fragment has no script, style sheet,
        link, event handler or address in it.
        """

    def measure(self, prediction: str, reference: str) -> Mapping[str, float]:
        """Metrics of one answer, each 0 to 1 with larger better unless its name stands in
        `metric_names.SMALLER_IS_BETTER`; one that could not be measured is left out.
        """


def drawn_sample(
    task: Task, index: int, seed: int, asked: Part, language: Language, target: str
) -> Sample:
    """A generated picture `asked` about in a language, with the answer to learn."""
    return Sample(
        id=f"{task.name}-{seed}-{index:06d}",
        messages=(
            Message("user", (asked, task.instructions[language])),
            Message("assistant", (target,)),
        ),
        task=task.name,
        difficulty=task.difficulty(target),
        origin=f"synthetic {task.name} {index}, seed {seed}",
    )


def mean_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Arithmetic mean of each metric over the answers that have it; empty for no answers."""
    means: dict[str, float] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        means[name] = sum(values) / len(values)
    return means
