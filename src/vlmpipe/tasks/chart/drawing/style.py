"""How a chart looks: print, colours, lines. Everything random about a drawing is decided here."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlmpipe.drawing import fonts
from vlmpipe.tasks.chart.difficulty import PRINTED_BELOW
from vlmpipe.tasks.chart.drawing.canvas import Colour, Face

EASY_BELOW = 0.15
MIN_PRINT = 15
"""Pixels to the em of the smallest print at the easy end."""

PALETTES: tuple[tuple[str, ...], ...] = (
    ("4e79a7", "f28e2b", "e15759", "76b7b2", "59a14f", "edc948",
     "b07aa1", "ff9da7", "9c755f", "bab0ac", "1f3b5c", "c7e59a"),
    ("1f77b4", "ff7f0e", "2ca02c", "d62728", "9467bd", "8c564b",
     "e377c2", "7f7f7f", "bcbd22", "17becf", "aec7e8", "f7d58a"),
    ("66c2a5", "fc8d62", "8da0cb", "e78ac3", "a6d854", "ffd92f",
     "e5c494", "b3b3b3", "3f7f6b", "a34f2c", "475a8a", "8a2c66"),
)  # fmt: skip
"""Twelve colours each that are told apart in a legend."""

GREYS = ("404040", "d0d0d0", "808080", "f0f0f0", "a8a8a8")
"""For charts of no more parts than there are greys."""


@dataclass(frozen=True)
class Style:
    """How one chart is drawn; lengths in pixels."""

    face: str
    size: int
    """Of the print, to the em; titles are larger by a quarter."""

    colours: tuple[Colour, ...]
    ink: Colour
    paper: Colour
    line_width: int
    hatched: bool
    grid: bool
    frame: bool
    """Lines on all four sides of a plot, not only along its axes."""

    printed: bool
    """Whether values are printed on bars and points."""

    plot_height: int
    gap: int
    """Between slices and legend, between nodes."""

    layout: str
    """Where a pie's values stand: `legend`, `slices` or `around`."""

    limit: tuple[int, int]
    """Largest width and height of the picture."""

    @property
    def print(self) -> Face:
        """The face of labels."""
        return Face(self.face, self.size)

    @property
    def title_print(self) -> Face:
        """The face of titles."""
        return Face(self.face, round(self.size * 1.25))

    @property
    def faint(self) -> Colour:
        """For gridlines: a quarter of the way from paper to ink."""
        red, green, blue = ((3 * a + b) // 4 for a, b in zip(self.paper, self.ink, strict=True))
        return red, green, blue

    def smaller(self) -> Style:
        """With print, plot and gaps a step smaller."""
        return replace(
            self, size=self.size - 1, plot_height=self.plot_height - 10, gap=max(24, self.gap - 4)
        )


def random_style(rng: random.Random, texts: Sequence[str], parts: int, difficulty: float) -> Style:
    """Large print and few pixels for easy charts, small print on a page for hard ones.

    `texts` is what has to be printed: only faces that have all of it are drawn by lot. `parts` are
    told apart by colour.

    Raises:
        StageError: where no shipped face has all of it.
    """
    grey = parts <= len(GREYS) and rng.random() < 0.3
    palette = list(GREYS if grey else rng.choice(PALETTES))
    if not grey:
        rng.shuffle(palette)
    return Style(
        face=rng.choice(fonts.faces_for("".join(texts) + "0123456789.%():")),
        size=max(13, round(22 - 9 * difficulty) + rng.randint(-2, 2)),
        colours=tuple(map(_colour, palette)),
        ink=(rng.randint(0, 60),) * 3,
        paper=(rng.randint(244, 255),) * 3,
        line_width=rng.choice((1, 2, 2)) + (difficulty < PRINTED_BELOW),
        hatched=rng.random() < 0.25,
        grid=rng.random() < 0.5 or difficulty >= PRINTED_BELOW,
        frame=rng.random() < 0.3,
        printed=difficulty < PRINTED_BELOW,
        plot_height=round(170 + 290 * difficulty) + rng.randint(-10, 20),
        gap=rng.randint(34, 46),
        layout=rng.choice(("legend", "slices", "around")),
        limit=_limit(difficulty),
    )


def _limit(difficulty: float) -> tuple[int, int]:
    if difficulty <= EASY_BELOW:
        return 448, 336
    return (800, 640) if difficulty < PRINTED_BELOW else (1680, 1680)


def _colour(text: str) -> Colour:
    return int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)
