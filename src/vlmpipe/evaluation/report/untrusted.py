"""Tables in answers, drawn as tables without trusting a byte of them.

What a model writes may hold anything. The result is rebuilt from parsed tokens: a few elements
without attributes (spans excepted, as bounded numbers), everything else as escaped text, and every
element closed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from html import escape
from html.parser import HTMLParser

STRUCTURE = frozenset({"table", "thead", "tbody", "tfoot", "tr", "td", "th"})
INLINE = frozenset({"b", "i", "sup", "sub"})
"""Found in the cells of published tables; without attributes they can do nothing but look."""

SPANS = frozenset({"colspan", "rowspan"})
MAX_SPAN = 100
MAX_DEPTH = 24
MAX_CHARACTERS = 20_000
_TABLE = re.compile(r"<table[\s>]", re.IGNORECASE)


def holds_table(text: str) -> bool:
    """Whether a text contains the beginning of a table."""
    return _TABLE.search(text) is not None


def table_html(text: str, marked: Collection[tuple[int, int]] = ()) -> str:
    """Inert HTML of a text with tables in it, cut after 20,000 characters.

    `marked` are (row, place in the row) of cells that are given the class `off`.
    """
    rebuilder = _Rebuilder(marked)
    rebuilder.feed(text[:MAX_CHARACTERS])
    rebuilder.close()
    return rebuilder.finished()


class _Rebuilder(HTMLParser):
    def __init__(self, marked: Collection[tuple[int, int]]) -> None:
        super().__init__(convert_charrefs=True)
        self._out: list[str] = []
        self._open: list[str] = []
        self._marked = marked
        self._row = self._place = -1

    def finished(self) -> str:
        """What was rebuilt, every element closed."""
        closing = "".join(f"</{tag}>" for tag in reversed(self._open))
        return "".join(self._out) + closing

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._kept(tag):
            self._write_text(self.get_starttag_text() or "")
            return
        self._open.append(tag)
        if tag == "tr":
            self._row, self._place = self._row + 1, -1
        self._out.append(f"<{tag}{self._cell(attrs) if tag in ('td', 'th') else ''}>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._kept(tag):
            self.handle_starttag(tag, attrs)
            self.handle_endtag(tag)
        else:
            self._write_text(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._open:
            if tag not in STRUCTURE | INLINE:
                self._write_text(f"</{tag}>")
            return
        while self._open:
            last = self._open.pop()
            self._out.append(f"</{last}>")
            if last == tag:
                return

    def handle_data(self, data: str) -> None:
        self._write_text(data)

    def handle_comment(self, data: str) -> None:
        self._write_text(f"<!--{data}-->")

    def handle_decl(self, decl: str) -> None:
        self._write_text(f"<!{decl}>")

    def handle_pi(self, data: str) -> None:
        self._write_text(f"<?{data}>")

    def unknown_decl(self, data: str) -> None:
        self._write_text(f"<![{data}]>")

    def _kept(self, tag: str) -> bool:
        if len(self._open) >= MAX_DEPTH:
            return False
        return tag == "table" or (tag in STRUCTURE | INLINE and "table" in self._open)

    def _cell(self, attrs: list[tuple[str, str | None]]) -> str:
        self._place += 1
        off = ' class="off"' if (self._row, self._place) in self._marked else ""
        return off + _spans(attrs)

    def _write_text(self, text: str) -> None:
        self._out.append(escape(text))


def _spans(attrs: list[tuple[str, str | None]]) -> str:
    kept = {
        name: int(value)
        for name, value in attrs
        if name in SPANS and value is not None and re.fullmatch(r"[0-9]{1,3}", value)
    }
    return "".join(f' {name}="{value}"' for name, value in kept.items() if 1 < value <= MAX_SPAN)
