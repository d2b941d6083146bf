"""One text of the gallery, as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass

from vlmpipe.evaluation.report.budget import Budget
from vlmpipe.evaluation.report.rendering import Rendering, rendering_of

SHOWN_CHARACTERS = 4000


@dataclass(frozen=True)
class ShownText:
    """A text that nobody vouches for: as it is, and as its task renders it."""

    title: str
    text: str
    hidden: int
    """Characters left out."""

    rendering: Rendering
    score: float | None = None
    cut: bool = False
    fault: str = ""
    """Why there is no answer, or no measure of it."""


def shown_text(
    title: str,
    text: str,
    task: str,
    reference: str | None = None,
    *,
    score: float | None = None,
    cut: bool = False,
    fault: str = "",
    drawings: Budget,
) -> ShownText:
    """A text to be shown: rendered, departures from a reference marked, length bounded."""
    shown = text[:SHOWN_CHARACTERS]
    rendering = rendering_of(task, text, reference)
    if rendering.drawn is not None and not drawings.take(len(rendering.drawn)):
        rendering = Rendering(readable=rendering.readable)
    return ShownText(
        title=title,
        text=shown,
        hidden=len(text) - len(shown),
        rendering=rendering,
        score=score,
        cut=cut,
        fault=fault,
    )
