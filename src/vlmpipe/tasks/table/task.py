"""The task `table`: an image of a table becomes its HTML."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from vlmpipe.encoding.conversation import Sample
from vlmpipe.tasks.base import LANGUAGES, Language, drawn_sample
from vlmpipe.tasks.html_tables import TableError, TableShape, parse_table, shape_of
from vlmpipe.tasks.lots import nearest, outside
from vlmpipe.tasks.table.drawing import draw_table
from vlmpipe.tasks.table.form import canonical_html
from vlmpipe.tasks.table.metrics import table_metrics
from vlmpipe.tasks.table.placing import place_table
from vlmpipe.tasks.table.style import random_style
from vlmpipe.tasks.table.synthetic import Grid, random_grid
from vlmpipe.tasks.text_metrics import text_metrics

ATTEMPTS = 12
"""Tables drawn by lot until one measures as hard as asked; the nearest one is taken otherwise."""


class TableTask:
    """Tables to HTML, judged by TEDS."""

    name = "table"
    instructions: Mapping[Language, str] = {
        "en": "Convert the table in the image to HTML.",
        "ko": "이미지의 표를 HTML로 변환하세요.",
    }
    primary_metric = "teds"
    always_trained: frozenset[str] = frozenset()

    def generate(
        self,
        index: int,
        seed: int,
        difficulty: tuple[float, float],
        languages: Sequence[Language] = LANGUAGES,
    ) -> Sample:
        """A table in print, with its HTML.

        Its measured difficulty lies in the range, or as near as the generator comes.
        """
        # Seeded by text: the same on every platform, and neighbours have nothing in common.
        rng = random.Random(f"table:{seed}:{index}")
        language = rng.choice(languages)
        grid = self._grid(rng, difficulty, language)
        target = grid.html()
        hardness = self.difficulty(target)
        style = random_style(rng, hardness, grid.text(), spans="span=" in target)
        image = draw_table(place_table(grid, style))
        return drawn_sample(self, index, seed, image, language, target)

    def difficulty(self, reference: str) -> float:
        """From cells, characters and spans: 0 for four one-digit cells, 1 for two hundred cells
        of ten characters with eight spans. Text that holds no table counts by its length.
        """
        try:
            shape = shape_of(parse_table(reference))
        except TableError:
            shape = TableShape(rows=0, columns=0, characters=len(reference), spans=0)
        cells = _share(shape.rows * shape.columns, low=4, high=200)
        characters = _share(shape.characters, low=8, high=2000)
        return round(0.5 * cells + 0.4 * characters + 0.1 * min(1.0, shape.spans / 8), 6)

    def canonical(self, answer: str) -> str | None:
        """The first table as this task writes it: see `canonical_html`."""
        try:
            return canonical_html(parse_table(answer))
        except TableError:
            return None

    def render(self, answer: str) -> str | None:
        """The table in its one form, which is escaped and has no attributes but spans."""
        return self.canonical(answer)

    def measure(self, prediction: str, reference: str) -> Mapping[str, float]:
        """`teds`, `teds_structure` (cells' text ignored), `structure_match` (whether that is 1),
        `cell_accuracy`, `cell_f1`, `adjacency_f1`, `well_formed`, and the metrics of plain text.

        `adjacency_f1` is left out where the reference has no two cells with text beside or below
        one another.
        """
        return {**table_metrics(prediction, reference), **text_metrics(prediction, reference)}

    def _grid(self, rng: random.Random, bounds: tuple[float, float], language: Language) -> Grid:
        return nearest(
            lambda: random_grid(rng, rng.uniform(*bounds), language),
            lambda grid: outside(self.difficulty(grid.html()), bounds),
            ATTEMPTS,
        )


def _share(value: float, low: float, high: float) -> float:
    """Where `value` stands between `low` (0) and `high` (1), on a logarithmic scale."""
    if value <= low:
        return 0.0
    return min(1.0, math.log(value / low) / math.log(high / low))
