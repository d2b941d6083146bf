"""The task `document`: an image of a medical insurance form becomes one JSON object."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from vlmpipe.encoding.conversation import Sample
from vlmpipe.tasks.base import LANGUAGES, Language, drawn_sample
from vlmpipe.tasks.document.claim import Claim
from vlmpipe.tasks.document.composing import compose
from vlmpipe.tasks.document.painting import paint
from vlmpipe.tasks.document.reading import read_claim
from vlmpipe.tasks.document.rendering import claim_html
from vlmpipe.tasks.document.scoring import document_metrics, hardness
from vlmpipe.tasks.document.synthetic import FORMS, random_claim
from vlmpipe.tasks.lots import nearest, outside
from vlmpipe.tasks.text_metrics import text_metrics, word_error_rate

ATTEMPTS = 60
"""Forms drawn by lot until one measures as hard as asked; the nearest one is taken otherwise."""

MARGIN = 0.12
"""How far beyond the range the generator is asked: a form comes out a little harder than asked in
the middle, and a little easier at the lower end."""


class DocumentTask:
    """Medical insurance forms to JSON, judged by the share of fields that are right."""

    name = "document"
    instructions: Mapping[Language, str] = {
        "en": "Read the form in the image and give its fields as JSON.",
        "ko": "이미지의 서식을 읽고 항목을 JSON으로 작성하세요.",
    }
    primary_metric = "field_accuracy"
    always_trained: frozenset[str] = frozenset()

    def generate(
        self,
        index: int,
        seed: int,
        difficulty: tuple[float, float],
        languages: Sequence[Language] = LANGUAGES,
    ) -> Sample:
        """A filled-in form with a made-up person on it, and the JSON of its fields.

        Its measured difficulty lies in the range, or as near as the generator comes.
        """
        rng = random.Random(f"document:{seed}:{index}")
        language = rng.choice(languages)
        claim = self._claim(rng, difficulty, language)
        target = claim.json_line()
        measured = self.difficulty(target)
        image = paint(compose(rng, claim, language, measured))
        return drawn_sample(self, index, seed, image, language, target)

    def difficulty(self, reference: str) -> float:
        """From fields, characters and items: 0 for two short fields, 1 for a full page."""
        return hardness(reference)

    def canonical(self, answer: str) -> str | None:
        """The claim as one line of JSON in the schema's order and forms.

        A code fence around it is dropped, and `2024. 3. 5.` or `"12,000원"` become what the schema
        asks for; None where that does not make a claim of it.
        """
        claim = read_claim(answer)
        return claim.json_line() if claim else None

    def render(self, answer: str) -> str | None:
        """A table of the fields."""
        claim = read_claim(answer)
        return claim_html(claim) if claim else None

    def measure(self, prediction: str, reference: str) -> Mapping[str, float]:
        """Those of `document_metrics`, those of plain text, and `wer`."""
        return {
            **document_metrics(prediction, reference),
            **text_metrics(prediction, reference),
            "wer": word_error_rate(prediction, reference),
        }

    def _claim(self, rng: random.Random, bounds: tuple[float, float], language: Language) -> Claim:
        low, high = max(0.0, bounds[0] - MARGIN), min(1.0, bounds[1] + MARGIN)
        # The type first: among forms drawn until one fits, those that fit most often would prevail.
        form = rng.choice(FORMS)
        return nearest(
            lambda: random_claim(rng, form, rng.uniform(low, high), language),
            lambda claim: outside(self.difficulty(claim.json_line()), bounds),
            ATTEMPTS,
        )
