"""Tables in answers, drawn as tables without trusting a byte of them.

What a model writes may hold anything. The result is rebuilt from parsed tokens: a few elements
without attributes (spans excepted, as bounded numbers), everything else as escaped text, and every
element closed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
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

Attributes = list[tuple[str, str | None]]


@dataclass(frozen=True)
class Policy:
    """What stays of a markup, cells' spans and the depth of nesting apart."""

    keeps: Callable[[str, Sequence[str]], bool]
    """Whether an element stays, within those that are open; its tags are text otherwise."""

    attributes: Callable[[str, Attributes], str]
    """Those that stay, with a space before each."""

    shows_comments: bool
    """Comments and declarations as text; they are left out otherwise."""


def spans_of(attrs: Attributes) -> dict[str, int]:
    """How many columns and rows a cell covers, by attribute, where it is more than one."""
    kept = {
        name: int(value)
        for name, value in attrs
        if name in SPANS and value is not None and re.fullmatch(r"[0-9]{1,3}", value)
    }
    return {name: value for name, value in kept.items() if 1 < value <= MAX_SPAN}


def holds_table(text: str) -> bool:
    """Whether a text contains the beginning of a table."""
    return _TABLE.search(text) is not None


def table_html(text: str, marked: Collection[tuple[int, int]] = ()) -> str:
    """Inert HTML of a text with tables in it, cut after 20,000 characters.

    `marked` are (row, place in the row) of cells that are given the class `off`.
    """
    return rebuilt(text[:MAX_CHARACTERS], _TABLES_ALONE, marked)


def rebuilt(markup: str, policy: Policy, marked: Collection[tuple[int, int]] = ()) -> str:
    """The markup written anew from its tokens, with nothing in it but what the policy keeps."""
    rebuilder = _Rebuilder(policy, marked)
    rebuilder.feed(markup)
    rebuilder.close()
    return rebuilder.finished()


def _keeps_table(tag: str, within: Sequence[str]) -> bool:
    return tag == "table" or (tag in STRUCTURE | INLINE and "table" in within)


_TABLES_ALONE = Policy(keeps=_keeps_table, attributes=lambda *_: "", shows_comments=True)


class _Rebuilder(HTMLParser):
    def __init__(self, policy: Policy, marked: Collection[tuple[int, int]]) -> None:
        super().__init__(convert_charrefs=True)
        self._policy = policy
        self._out: list[str] = []
        self._open: list[str] = []
        self._marked = marked
        self._row = self._place = -1

    def finished(self) -> str:
        """What was rebuilt, every element closed."""
        closing = "".join(f"</{tag}>" for tag in reversed(self._open))
        return "".join(self._out) + closing

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        if not self._keeps(tag):
            self._write_text(self.get_starttag_text() or "")
            return
        if tag == "tr":
            self._row, self._place = self._row + 1, -1
        self._out.append(f"<{tag}{self._attributes(tag, attrs)}>")
        if tag != "br":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:
        if self._keeps(tag):
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
        self._write_aside(f"<!--{data}-->")

    def handle_decl(self, decl: str) -> None:
        self._write_aside(f"<!{decl}>")

    def handle_pi(self, data: str) -> None:
        self._write_aside(f"<?{data}>")

    def unknown_decl(self, data: str) -> None:
        self._write_aside(f"<![{data}]>")

    def _keeps(self, tag: str) -> bool:
        return len(self._open) < MAX_DEPTH and self._policy.keeps(tag, self._open)

    def _attributes(self, tag: str, attrs: Attributes) -> str:
        return self._cell(attrs) if tag in ("td", "th") else self._policy.attributes(tag, attrs)

    def _cell(self, attrs: Attributes) -> str:
        self._place += 1
        off = ' class="off"' if (self._row, self._place) in self._marked else ""
        return off + "".join(f' {name}="{value}"' for name, value in spans_of(attrs).items())

    def _write_aside(self, text: str) -> None:
        if self._policy.shows_comments:
            self._write_text(text)

    def _write_text(self, text: str) -> None:
        self._out.append(escape(text))
