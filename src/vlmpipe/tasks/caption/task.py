"""The task `caption`: an image of a chart, figure or structure becomes a text of its facts."""

from __future__ import annotations

import html
import random
from collections.abc import Mapping, Sequence

from vlmpipe.encoding.conversation import Sample
from vlmpipe.tasks.base import LANGUAGES, Language, drawn_sample
from vlmpipe.tasks.caption.drawing import draw_scene
from vlmpipe.tasks.caption.facts import KINDS, fact_f1, facts_in
from vlmpipe.tasks.caption.scenes import FigureScene, RingScene, Scene, random_scene
from vlmpipe.tasks.caption.wording import caption
from vlmpipe.tasks.chart.difficulty import letters, log_share
from vlmpipe.tasks.chart.drawing import random_style
from vlmpipe.tasks.chart.task import chart_in, parts_of
from vlmpipe.tasks.lots import nearest, outside
from vlmpipe.tasks.text_metrics import normalised, text_metrics
from vlmpipe.tasks.text_overlap import overlap_metrics

ATTEMPTS = 32
"""Scenes drawn by lot until one measures as hard as asked; the nearest one is taken otherwise."""

FACTS, LETTERS = (5, 60), (40, 1000)
"""Of the easiest caption and of the hardest."""


class CaptionTask:
    """Pictures to short descriptions, judged by the facts in them."""

    name = "caption"
    instructions: Mapping[Language, str] = {
        "en": "Describe the image in a short text.",
        "ko": "이미지를 짧은 글로 설명하세요.",
    }
    primary_metric = "facts"
    always_trained: frozenset[str] = frozenset()

    def generate(
        self,
        index: int,
        seed: int,
        difficulty: tuple[float, float],
        languages: Sequence[Language] = LANGUAGES,
    ) -> Sample:
        """A chart, a figure of shapes or a structure of rings, with what can be said of it.

        Its measured difficulty lies in the range, or as near as the generator comes.
        """
        rng = random.Random(f"caption:{seed}:{index}")
        language = rng.choice(languages)
        scene, target = self._described(rng, language, difficulty)
        hardness = self.difficulty(target)
        style = random_style(rng, [target], _parts(scene), hardness)
        return drawn_sample(self, index, seed, draw_scene(rng, scene, style), language, target)

    def difficulty(self, reference: str) -> float:
        """From its facts and its length: 0 for a sentence of five facts, 1 for sixty facts in a
        thousand letters.
        """
        facts = log_share(facts_in(reference).total(), *FACTS)
        length = log_share(letters(normalised(reference)), *LETTERS)
        return round(0.6 * facts + 0.4 * length, 6)

    def canonical(self, answer: str) -> str | None:
        """The text with its white space single and its Unicode form made one."""
        return " ".join(normalised(answer).split())

    def render(self, answer: str) -> str | None:
        """A paragraph."""
        return f"<p>{html.escape(answer)}</p>"

    def measure(self, prediction: str, reference: str) -> Mapping[str, float]:
        """`facts` (F1), the metrics of plain text, and `chrf`, `bleu` and `rouge_l`."""
        return {
            "facts": fact_f1(prediction, reference),
            **text_metrics(prediction, reference),
            **overlap_metrics(prediction, reference),
        }

    def _described(
        self, rng: random.Random, language: Language, bounds: tuple[float, float]
    ) -> tuple[Scene, str]:
        """A scene with its caption, as near the range as lots fall; not every kind gets hard."""

        def described() -> tuple[Scene, str]:
            level = rng.uniform(*bounds)
            scene = random_scene(rng, rng.choice(list(KINDS)), language, level)
            return scene, caption(scene, language, _detail(rng, level))

        return nearest(described, lambda pair: outside(self.difficulty(pair[1]), bounds), ATTEMPTS)


def _detail(rng: random.Random, difficulty: float) -> int:
    """How much is said, 0 to 3."""
    return min(3, round(3 * difficulty + rng.uniform(-0.3, 0.6)))


def _parts(scene: Scene) -> int:
    return 2 if isinstance(scene, FigureScene | RingScene) else parts_of(chart_in(scene))
