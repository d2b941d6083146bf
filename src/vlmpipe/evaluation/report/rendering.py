"""A text as its task renders it, made inert, with what departs from the reference marked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup

from vlmpipe.evaluation.report.differences import marked_text
from vlmpipe.evaluation.report.fragments import fragment_html
from vlmpipe.evaluation.report.table_differences import Departures, table_departures
from vlmpipe.evaluation.report.untrusted import holds_table, table_html
from vlmpipe.tasks import task_of

MOST_RENDERED = 60_000
"""Characters of an answer that is drawn: one that ran on to its limit takes a minute and shows
nothing that its beginning does not.
"""

_ELEMENT = re.compile(r"<([a-z]+)")


@dataclass(frozen=True)
class Rendering:
    """What can be shown of a text beside the text itself."""

    drawn: Markup | None = None
    """A table, a drawing; None where it would show no more than the text."""

    marked: Markup | None = None
    """The text with what departs from the reference marked."""

    missing: str = ""
    """What of a table is not there to be marked: `1 row, 1 column`."""

    unmarked: str = ""
    """Why departures of a table are not marked."""

    readable: bool = True
    """Whether the text is in the task's format."""


def rendering_of(task: str, text: str, reference: str | None = None) -> Rendering:
    """How `text` looks as an answer of `task`; departures from `reference` are marked."""
    if max(len(text), len(reference or "")) > MOST_RENDERED:
        return Rendering()
    fragment, readable = _rendered(task, text)
    if fragment is not None and not _is_prose(fragment):
        other = reference and _rendered(task, reference)[0]
        found = table_departures(fragment, other) if other else Departures()
        return _drawn(fragment_html(fragment, found.cells), found)
    if holds_table(text):
        found = Departures() if reference is None else table_departures(text, reference)
        return _drawn(table_html(text, found.cells), found, readable)
    marked = marked_text(text, reference) if reference is not None else None
    return Rendering(marked=None if marked is None else Markup(marked), readable=readable)


def _drawn(inert: str | None, found: Departures, readable: bool = True) -> Rendering:
    if inert is None:
        return Rendering(readable=readable)
    return Rendering(
        drawn=Markup(inert), missing=found.missing, unmarked=found.unmarked, readable=readable
    )


def _rendered(task: str, text: str) -> tuple[str | None, bool]:
    """The task's fragment, and whether the text is in the task's format."""
    try:
        fragment = task_of(task).render(text)
    except ImportError:
        # A report may be written where the libraries that read answers are not installed.
        return None, True
    return fragment, fragment is not None


def _is_prose(fragment: str) -> bool:
    return set(_ELEMENT.findall(fragment)) <= {"p", "br"}
