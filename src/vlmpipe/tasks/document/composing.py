"""A claim becomes a page: what stands on it, how wide and high it is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from vlmpipe.tasks.base import Language
from vlmpipe.tasks.document.blocks import Block, FinePrint, Header, Items, Signature
from vlmpipe.tasks.document.claim import Claim
from vlmpipe.tasks.document.entries import Entry, entries_by_section
from vlmpipe.tasks.document.fields import Fields, entry_width, in_rows, label_width
from vlmpipe.tasks.document.filling import Filler
from vlmpipe.tasks.document.page import Page, text_width
from vlmpipe.tasks.document.seals import random_seals
from vlmpipe.tasks.document.style import EASY_UP_TO, EASY_WIDTH, PAGE, Style, random_style
from vlmpipe.tasks.document.wording import Wording, wording

NUMBERED_FROM, SIGNED_FROM = 0.3, 0.3
"""Forms as hard as this have a form number; and notes, a line to sign on, and seals."""

FULL_FROM = 0.8
"""Forms as hard as this are whole pages."""

TWO_COLUMNS_FROM = 680
"""Pixels of width from which two fields share a row."""


def compose(rng: random.Random, claim: Claim, language: Language, difficulty: float) -> Page:
    """The form of that claim, filled in; its look is drawn by lot."""
    words = wording(language)
    style = random_style(rng, language, difficulty, words.model_dump_json(), claim.json_line())
    return _Form(rng, claim, language, words, style).page()


@dataclass(frozen=True)
class _Form:
    rng: random.Random
    claim: Claim
    language: Language
    words: Wording
    style: Style

    def page(self) -> Page:
        groups = entries_by_section(self.rng, self.claim, self.words, self.style)
        entries = [entry for group in groups.values() for entry in group]
        title = self.rng.choice(self.words.titles[self.claim.document_type])
        margin, width = self.style.margin, _width(self.style, title, entries)
        labels = label_width(entries, self.style)
        blocks = self._blocks(groups, title, labels, width - 2 * margin)
        row = _row_height(self.style, blocks)
        page = Page((width, _height(self.style, blocks, row)), self.style.paper)
        top = margin
        for block in blocks:
            bottom = top + block.height(row)
            area = margin, top, width - margin, bottom
            block.draw(page, area, row)
            if isinstance(block, Signature):
                page.seals += random_seals(
                    self.rng, self.claim, self.words, self.style, self.language, area
                )
            top = bottom
        return page

    def _blocks(
        self, groups: dict[str, list[Entry]], title: str, labels: int, width: int
    ) -> list[Block]:
        """From top to bottom; `labels` and `width` are those of labels and of the whole, pixels."""
        most = 2 if width >= TWO_COLUMNS_FROM else 1
        filler = Filler(self.style, self.rng)
        blocks: list[Block] = [self._header(title)]
        for name, entries in groups.items():
            if name == "money":
                blocks += self._items(filler)
            rows = tuple(in_rows(entries, self.style, labels, width, most))
            heading = self.words.sections[name] if self.style.sections and entries else ""
            blocks.append(Fields(self.style, filler, heading, rows, labels))
        return [*blocks, *self._foot(filler)]

    def _header(self, title: str) -> Header:
        style = self.style
        number = self.words.form_number.format(self.rng.randint(1, 99))
        return Header(
            style,
            title,
            number if style.difficulty >= NUMBERED_FROM else "",
            align=self.rng.choice("mml"),
            ruled=not style.easy and self.rng.random() < 0.5,
        )

    def _items(self, filler: Filler) -> list[Block]:
        if not self.claim.items:
            return []
        title = self.words.item_titles[self.claim.document_type]
        numbered = self.rng.random() < 0.5
        columns = self.words.item_columns
        return [Items(self.style, filler, title, columns, self.claim.items, numbered)]

    def _foot(self, filler: Filler) -> list[Block]:
        """Notes and a line to sign on, in either order; nothing on easy forms."""
        if self.style.difficulty < SIGNED_FROM:
            return []
        most = len(self.words.fine_print)
        count = max(1, round(most * self.style.difficulty * self.rng.uniform(0.5, 1.0)))
        notes = FinePrint(self.style, tuple(self.rng.sample(self.words.fine_print, k=count)))
        signer = self.words.signers[self.claim.document_type]
        return [notes, Signature(self.style, filler, signer, self.words.signature)]


def _width(style: Style, title: str, entries: Sequence[Entry]) -> int:
    """As wide as its content for easy forms, then growing to the width of a page."""
    if not style.easy:
        share = min(1.0, (style.difficulty - EASY_UP_TO) / (FULL_FROM - EASY_UP_TO))
        return round(EASY_WIDTH + (PAGE[0] - EASY_WIDTH) * share)
    labels = label_width(entries, style)
    widths = [entry_width(entry, style, labels) for entry in entries]
    inner = max(*widths, text_width(title, style.title_face, style.size * 5 // 4))
    return min(EASY_WIDTH, inner + 2 * style.margin)


def _row_height(style: Style, blocks: Sequence[Block]) -> int:
    """A comfortable height; on whole pages the largest at which all of the form fits."""
    usual, least = style.size * 2, style.size * 3 // 2
    if style.difficulty < FULL_FROM:
        return usual
    heights = range(style.size * 5 // 2, least, -1)
    return next((row for row in heights if _height(style, blocks, row) <= PAGE[1]), least)


def _height(style: Style, blocks: Sequence[Block], row: int) -> int:
    needed = sum(block.height(row) for block in blocks) + 2 * style.margin
    return needed if style.difficulty < FULL_FROM else max(PAGE[1], needed)
