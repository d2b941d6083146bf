"""A text as its task renders it, made inert, with what departs from the reference marked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup

from vlmpipe.evaluation.report.differences import differing_cells, marked_text
from vlmpipe.evaluation.report.fragments import fragment_html
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

    readable: bool = True
    """Whether the text is in the task's format."""


def rendering_of(task: str, text: str, reference: str | None = None) -> Rendering:
    """How `text` looks as an answer of `task`; departures from `reference` are marked."""
    if max(len(text), len(reference or "")) > MOST_RENDERED:
        return Rendering()
    fragment, readable = _rendered(task, text)
    if fragment is not None and not _is_prose(fragment):
        other = reference and _rendered(task, reference)[0]
        cells = differing_cells(fragment, other) if other else ()
        inert = fragment_html(fragment, cells)
        return Rendering(drawn=None if inert is None else Markup(inert))
    if holds_table(text):
        cells = differing_cells(text, reference) if reference is not None else ()
        return Rendering(drawn=Markup(table_html(text, cells)), readable=readable)
    marked = marked_text(text, reference) if reference is not None else None
    return Rendering(marked=None if marked is None else Markup(marked), readable=readable)


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
