"""How a table is printed: face, size, rules, shades, alignment."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from vlmpipe.drawing.fonts import faces_for

Colour = tuple[int, int, int]

BOLD = {
    "sans": "sans-bold",
    "serif": "serif-bold",
    "lato": "sans-bold",
    "mono": "sans-bold",
    "gothic": "gothic-bold",
    "myeongjo": "gothic-bold",
}
"""The face of the headings that goes with a face of the text."""

TINTS: tuple[Colour, ...] = (
    (222, 222, 222),
    (206, 206, 206),
    (217, 226, 243),
    (226, 239, 218),
    (255, 242, 204),
    (251, 228, 213),
)
DARK: tuple[Colour, ...] = ((64, 64, 64), (47, 84, 150), (56, 87, 35))

RULES = ("grid", "grid", "grid", "rows", "book", "none", "stripes")
RULES_WITH_SPANS = ("grid", "grid", "rows")
"""Without lines nobody could tell how far a merged cell reaches."""

ALIGNMENTS = ("l", "m", "r", "lr", "lm")
NO_WRAP = 1000
WRAPS_FROM = 1 / 3


@dataclass(frozen=True)
class Style:
    """How one table is printed; lengths in pixels."""

    face: str
    bold: str
    """Of header cells; the same as `face` where a shade alone marks them."""

    font_size: int
    padding: int
    margin: int
    line_width: int
    rules: str
    """`grid`: every line; `rows`: a line under every row; `book`: lines above, below, and under
    the headings; `none`; `stripes`: every other row shaded."""

    alignment: str
    """`l`, `m` or `r` of the first column, then of the others."""

    wrap: int
    """Widest line of a cell, in `font_size`; longer texts wrap."""

    ink: Colour
    paper: Colour
    header_fill: Colour | None

    @property
    def header_ink(self) -> Colour:
        """Light on a dark shade."""
        return self.paper if self.header_fill in DARK else self.ink

    @property
    def stripe(self) -> Colour:
        """Of every other row."""
        red, green, blue = (level - 18 for level in self.paper)
        return red, green, blue

    def smaller(self, font_size: int) -> Style:
        """In smaller print, which needs less room around it."""
        return replace(self, font_size=font_size, padding=min(self.padding, font_size // 2))

    def align(self, column: int) -> str:
        """`l`, `m` or `r`."""
        return self.alignment[0] if column == 0 else self.alignment[-1]


def random_style(rng: random.Random, difficulty: float, text: str, *, spans: bool) -> Style:
    """Large print for easy tables, small print and wrapped cells for hard ones.

    `text` is all that is to be printed; `spans` says whether cells are merged.

    Raises:
        StageError: for a character that no shipped face has.
    """
    face = rng.choice([name for name in faces_for(text) if name in BOLD])
    mark = rng.choice(("bold", "shade", "both", "both"))
    paper, ink = rng.randint(240, 255), rng.randint(0, 60)
    return Style(
        face=face,
        bold=face if mark == "shade" else BOLD[face],
        font_size=rng.randint(round(20 - 9 * difficulty), round(26 - 12 * difficulty)),
        padding=rng.randint(5, 10),
        margin=rng.randint(6, 14),
        line_width=rng.choice((1, 2)),
        rules=rng.choice(RULES_WITH_SPANS if spans else RULES),
        alignment=rng.choice(ALIGNMENTS),
        wrap=rng.randint(12, 16) if difficulty >= WRAPS_FROM else NO_WRAP,
        ink=(ink, ink, ink),
        paper=(paper, paper, paper),
        header_fill=None if mark == "bold" else rng.choice(TINTS * 2 + DARK),
    )
