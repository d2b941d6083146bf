"""How one form looks: its layout, faces and colours, and how dates and sums are written on it."""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass

from vlmpipe.drawing.fonts import faces_for
from vlmpipe.tasks.base import Language
from vlmpipe.tasks.document.claim import AMOUNT_FIELDS, DATE_FIELDS
from vlmpipe.tasks.document.page import Colour

EASY_UP_TO = 0.2
"""Forms as easy as this are as wide as their content, and have nothing but title and fields."""

EASY_WIDTH = 448
PAGE = 1240, 1754
"""A4 at 150 dots per inch."""

BOLD = {"gothic": "gothic-bold", "sans": "sans-bold", "serif": "serif-bold", "lato": "sans-bold"}
HAND_SCALE = {"pen": 1.45, "script": 1.25, "casual": 1.05}
"""Handwriting faces are smaller to the em than print."""

INKS: tuple[Colour, ...] = ((20, 20, 24), (25, 35, 110), (40, 40, 48), (20, 60, 140))
TINTS: tuple[Colour, ...] = ((226, 226, 226), (236, 236, 236), (220, 230, 240), (233, 236, 222))

DATE_STYLES: dict[Language, tuple[str, ...]] = {
    "ko": ("{y}-{m:02}-{d:02}", "{y}.{m:02}.{d:02}", "{y}. {m}. {d}.", "{y}년 {m}월 {d}일"),
    "en": ("{y}-{m:02}-{d:02}", "{d} {month} {y}", "{month} {d}, {y}", "{y}/{m:02}/{d:02}"),
}
AMOUNT_STYLES: dict[Language, tuple[str, ...]] = {
    "ko": ("{:,}", "{:,}원", "₩{:,}"),
    "en": ("{:,}", "${:,}", "$ {:,}"),
}
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Style:
    """Lengths in pixels."""

    difficulty: float
    kind: str
    """`grid`: label and value in boxes side by side; `stacked`: label above value in one box;
    `lines`: values on ruled lines."""

    size: int
    """Of print, to the em."""

    margin: int
    label_face: str
    title_face: str
    fill_face: str
    ink: Colour
    """Of what is filled in."""

    form_ink: Colour
    tint: Colour
    """Of cells with labels."""

    paper: Colour
    date: str
    amount: str
    mark: str
    """In check boxes: `tick`, `cross` or `fill`."""

    sections: bool
    """Whether groups of fields have headings."""

    @property
    def by_hand(self) -> bool:
        """Whether it is filled in by hand."""
        return self.fill_face in HAND_SCALE

    @property
    def fill_size(self) -> int:
        """Of what is filled in, to the em."""
        return round(self.size * HAND_SCALE.get(self.fill_face, 1.0))

    @property
    def easy(self) -> bool:
        """Whether the form is small and bare."""
        return self.difficulty <= EASY_UP_TO

    @property
    def pad(self) -> int:
        """Between a box and what stands in it."""
        return max(4, self.size // 3)

    def written(self, name: str, value: object) -> str:
        """A field's value as it stands on the form."""
        if name in DATE_FIELDS:
            day = datetime.date.fromisoformat(str(value))
            month = MONTHS[day.month - 1]
            return self.date.format(y=day.year, m=day.month, d=day.day, month=month)
        return self.amount.format(value) if name in AMOUNT_FIELDS | {"amount"} else str(value)


def random_style(
    rng: random.Random, language: Language, difficulty: float, printed: str, filled: str
) -> Style:
    """A look for a form with these printed words and these filled-in ones, all put together."""
    easy = difficulty <= EASY_UP_TO
    extra = "₩$,원년월일" if language == "ko" else "$,/" + "".join(MONTHS)
    label_face = rng.choice([name for name in faces_for(printed) if not name.endswith("bold")])
    by_hand = rng.random() < (0.25 if easy else 0.45)
    fill_face = rng.choice(faces_for(filled + extra, "hand" if by_hand else "print"))
    # Written-out dates come with harder forms: easy ones are read by the smallest models.
    kinds_of_date = DATE_STYLES[language][: 2 if difficulty < 0.1 else None]
    kinds = ("grid", "grid", "lines") if easy else ("grid", "grid", "stacked", "lines")
    return Style(
        difficulty=difficulty,
        kind=rng.choice(kinds),
        size=rng.randint(20, 25) if easy else rng.randint(19, 23),
        margin=rng.randint(10, 18) if easy else round(20 + 60 * difficulty),
        label_face=label_face,
        title_face=rng.choice([label_face, BOLD.get(label_face, label_face)]),
        fill_face=fill_face,
        ink=rng.choice(INKS),
        form_ink=rng.choice(((0, 0, 0), (40, 40, 40), (30, 50, 80))),
        tint=rng.choice(TINTS),
        paper=rng.choice(((255, 255, 255), (252, 252, 250), (250, 248, 242))),
        date=rng.choice(kinds_of_date),
        amount=rng.choice(AMOUNT_STYLES[language]),
        mark=rng.choice(("tick", "cross", "fill")),
        sections=difficulty >= 0.5 and rng.random() < 0.7,
    )
