"""Rows of fields: in boxes side by side, stacked in one box, or on ruled lines."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from vlmpipe.tasks.document.entries import Entry
from vlmpipe.tasks.document.filling import Filler, boxes_width
from vlmpipe.tasks.document.page import Box, Frame, Page, Stroke, Text, placed, text_width, widest
from vlmpipe.tasks.document.style import Style

Row = tuple[Entry, ...]
"""One or two fields side by side."""


@dataclass(frozen=True)
class Fields:
    """A group of fields, under a heading where it has one."""

    style: Style
    filler: Filler
    heading: str
    rows: tuple[Row, ...]
    label_width: int

    def height(self, row: int) -> int:
        """Heading, rows, and a gap."""
        if not self.rows:
            return 0
        heading = self._heading_height if self.heading else 0
        return heading + len(self.rows) * self._row(row) + (0 if self.style.easy else 8)

    def _row(self, row: int) -> int:
        return row * 3 // 2 if self.style.kind == "stacked" else row

    @property
    def _heading_height(self) -> int:
        return self.style.size * 7 // 4

    def draw(self, page: Page, area: Box, row: int) -> None:
        """Heading on a tinted band, then the rows."""
        left, top, right, _ = area
        if self.heading:
            band = (left, top, right, top + self._heading_height)
            page.frames.append(Frame(band, fill=self.style.tint))
            page.texts.append(self._print(self.heading, band, self.style.title_face))
            top = band[3]
        high = self._row(row)
        for place, entries in enumerate(self.rows):
            y = top + place * high
            for box, entry in zip(
                _split((left, y, right, y + high), entries), entries, strict=True
            ):
                self._draw_entry(page, entry, box)
        if not (self.style.easy or self.style.kind == "lines" or not self.rows):
            around = (left, top, right, top + len(self.rows) * high)
            page.frames.append(Frame(around, outline=self.style.form_ink, line=3))

    def _draw_entry(self, page: Page, entry: Entry, box: Box) -> None:
        draw = {"grid": self._in_boxes, "stacked": self._stacked, "lines": self._on_a_line}
        value = draw[self.style.kind](page, entry, box)
        if entry.boxes:
            self.filler.tick_boxes(page, entry.boxes, value)
        else:
            self.filler.write(page, entry.text, value)

    def _in_boxes(self, page: Page, entry: Entry, box: Box) -> Box:
        left, top, right, bottom = box
        label = (left, top, left + self.label_width, bottom)
        value = (label[2], top, right, bottom)
        page.frames.append(Frame(label, fill=self.style.tint, outline=self.style.form_ink))
        page.frames.append(Frame(value, outline=self.style.form_ink))
        page.texts.append(self._print(entry.label, label))
        return value

    def _stacked(self, page: Page, entry: Entry, box: Box) -> Box:
        left, top, right, bottom = box
        middle = top + (bottom - top) // 3
        page.frames.append(Frame(box, outline=self.style.form_ink))
        label = (left, top, right, middle)
        page.texts.append(
            placed(
                entry.label,
                self.style.label_face,
                self.style.size * 2 // 3,
                self.style.form_ink,
                label,
                pad=self.style.pad,
            )
        )
        return (left, middle, right, bottom)

    def _on_a_line(self, page: Page, entry: Entry, box: Box) -> Box:
        left, top, right, bottom = box
        label = (left, top, left + self.label_width, bottom)
        value = (label[2], top, right - self.style.pad, bottom)
        page.texts.append(self._print(entry.label, label))
        y = bottom - self.style.size // 5
        page.strokes.append(Stroke(((value[0], y), (value[2], y)), self.style.form_ink))
        return value

    def _print(self, text: str, box: Box, face: str = "") -> Text:
        style = self.style
        return placed(
            text, face or style.label_face, style.size, style.form_ink, box, pad=style.pad
        )


def label_width(entries: Sequence[Entry], style: Style) -> int:
    """Room that the widest label takes."""
    return widest([each.label for each in entries], style.label_face, style.size) + 2 * style.pad


def entry_width(entry: Entry, style: Style, labels: int) -> int:
    """Pixels that a field takes with its label, which has `labels` of them beside the value."""
    beside = 0 if style.kind == "stacked" else labels
    if entry.boxes:
        return beside + boxes_width(entry.boxes, style.label_face, style.size) + style.pad
    value = text_width(entry.text, style.fill_face, style.fill_size)
    return beside + max(value, labels // 2) + 2 * style.pad


def in_rows(
    entries: Sequence[Entry], style: Style, labels: int, width: int, most: int
) -> list[Row]:
    """Neighbours share a row, `most` in one, where each fits into its part of the width."""
    rows: list[Row] = []
    for entry in entries:
        fits = entry_width(entry, style, labels) <= width // 2
        last = rows[-1] if rows else ()
        if last and fits and len(last) < most and entry_width(last[0], style, labels) <= width // 2:
            rows[-1] = (*last, entry)
        else:
            rows.append((entry,))
    return rows


def _split(box: Box, entries: Row) -> list[Box]:
    left, top, right, bottom = box
    edges = [left + (right - left) * place // len(entries) for place in range(len(entries) + 1)]
    return [(a, top, b, bottom) for a, b in itertools.pairwise(edges)]
