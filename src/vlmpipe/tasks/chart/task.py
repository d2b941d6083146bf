"""The task `chart`: an image of a chart becomes its Mermaid."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from vlmpipe.encoding.conversation import Sample
from vlmpipe.tasks.base import LANGUAGES, Language, drawn_sample
from vlmpipe.tasks.chart.difficulty import PRINTED_BELOW, chart_difficulty, log_share
from vlmpipe.tasks.chart.drawing import Subject, draw, random_style
from vlmpipe.tasks.chart.flow_synthetic import FlowPlan, random_flow
from vlmpipe.tasks.chart.mermaid import is_valid_mermaid
from vlmpipe.tasks.chart.metrics import chart_metrics
from vlmpipe.tasks.chart.model import Chart, ChartError, PieChart
from vlmpipe.tasks.chart.parser import parse_chart
from vlmpipe.tasks.chart.render import render_chart
from vlmpipe.tasks.chart.source import unfenced
from vlmpipe.tasks.chart.synthetic import random_axis_chart, random_pie
from vlmpipe.tasks.chart.writer import mermaid
from vlmpipe.tasks.lots import nearest, outside
from vlmpipe.tasks.text_metrics import text_metrics

ATTEMPTS = 24
"""Charts drawn by lot until one measures as hard as asked; the nearest one is taken otherwise."""

Generator = Callable[[random.Random, Language, float], Subject]

GENERATORS: dict[str, Generator] = {
    "bar": lambda rng, language, level: random_axis_chart(rng, "bar", language, level),
    "line": lambda rng, language, level: random_axis_chart(rng, "line", language, level),
    "pie": random_pie,
    "flowchart": random_flow,
}


class ChartTask:
    """Bar, line and pie charts and flowcharts to Mermaid, judged by the facts in them."""

    name = "chart"
    instructions: Mapping[Language, str] = {
        "en": "Convert the chart in the image to Mermaid.",
        "ko": "이미지의 차트를 Mermaid로 변환하세요.",
    }
    primary_metric = "chart_f1"
    always_trained: frozenset[str] = frozenset()

    def generate(
        self,
        index: int,
        seed: int,
        difficulty: tuple[float, float],
        languages: Sequence[Language] = LANGUAGES,
    ) -> Sample:
        """A chart of one of the four kinds, in print, with its Mermaid.

        Its measured difficulty lies in the range, or as near as the generator comes.
        """
        rng = random.Random(f"chart:{seed}:{index}")
        language = rng.choice(languages)
        subject = random_subject(rng, language, difficulty)
        chart = chart_in(subject)
        hardness = chart_difficulty(chart)
        image = draw(subject, random_style(rng, chart.texts, parts_of(chart), hardness))
        return drawn_sample(self, index, seed, image, language, mermaid(chart))

    def difficulty(self, reference: str) -> float:
        """From the number of its parts and the length of its texts, see `chart_difficulty`. Text
        that is no chart counts by its length: 1 from 2000 characters on.
        """
        try:
            return chart_difficulty(parse_chart(reference))
        except ChartError:
            return round(log_share(len(reference), low=40, high=2000), 6)

    def canonical(self, answer: str) -> str | None:
        """The chart as this task writes it: ids A, B, C, one statement a line."""
        try:
            return mermaid(parse_chart(answer))
        except ChartError:
            return None

    def render(self, answer: str) -> str | None:
        """Bars, slices or lists of nodes and arrows, with their text escaped."""
        try:
            return render_chart(parse_chart(answer))
        except ChartError:
            return None

    def measure(self, prediction: str, reference: str) -> Mapping[str, float]:
        """The metrics of `chart_metrics`, `valid`, and those of plain text.

        Values have to be exact where the picture prints them, else within 1 %. `valid` is what
        Mermaid's own parser says, and left out where that is not installed.
        """
        return {
            **chart_metrics(prediction, reference, printed=self._printed(reference)),
            **_validity(prediction),
            **text_metrics(prediction, reference),
        }

    def _printed(self, reference: str) -> bool:
        try:
            chart = parse_chart(reference)
        except ChartError:
            return True
        return isinstance(chart, PieChart) or chart_difficulty(chart) < PRINTED_BELOW


def _validity(prediction: str) -> dict[str, float]:
    valid = is_valid_mermaid(unfenced(prediction))
    return {} if valid is None else {"valid": float(valid)}


def random_subject(rng: random.Random, language: Language, bounds: tuple[float, float]) -> Subject:
    """A chart of a kind drawn by lot, as hard as asked or as near as the generator comes."""
    generator = GENERATORS[rng.choice(list(GENERATORS))]
    return nearest(
        lambda: generator(rng, language, rng.uniform(*bounds)),
        lambda subject: outside(chart_difficulty(chart_in(subject)), bounds),
        ATTEMPTS,
    )


def chart_in(subject: Subject) -> Chart:
    """What a drawing says, apart from where its parts stand."""
    return subject.chart if isinstance(subject, FlowPlan) else subject


def parts_of(chart: Chart) -> int:
    """How many parts of it colours tell apart."""
    return len(chart.slices) if isinstance(chart, PieChart) else 2
