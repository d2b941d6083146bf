"""The sheet as HTML: nothing from outside, nothing in it that a text could run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from markupsafe import Markup

from vlmpipe.evaluation.answers import writable
from vlmpipe.evaluation.judging.cases import Case
from vlmpipe.evaluation.judging.pictures import small_data_uri
from vlmpipe.evaluation.report.differences import marked_text
from vlmpipe.evaluation.report.rendering import Rendering, rendering_of

TEMPLATES = "vlmpipe.evaluation.review"
MAX_CHARACTERS = 20_000
"""Of each text; how many are left out is said."""

PICTURE_SIDE = 1400
"""Longest side of a picture, pixels: small print stays readable when enlarged."""


@dataclass(frozen=True)
class Text:
    """A text that nobody vouches for."""

    text: str
    hidden: int
    """Characters left out."""

    rendering: Rendering
    marked: Markup | None
    """The text with what the other answer does not say marked; None where there is no telling."""


@dataclass(frozen=True)
class Item:
    """One pair."""

    name: str
    prompt: str
    pictures: Sequence[str]
    """`data:` URIs."""

    wide: bool
    """The first picture is wider than high, and stands above the answers."""

    answers: tuple[Text, Text]
    reference: Text

    @property
    def alike(self) -> bool:
        """The drawings show no difference, although the texts have one: both are shown."""
        first, second = (answer.rendering.drawn for answer in self.answers)
        return first is not None and first == second


def item_of(name: str, case: Case, first: str, second: str) -> Item:
    """A case as the sheet shows it, with what departs between the two answers marked."""
    images = case.images
    return Item(
        name=name,
        prompt=_showable(case.prompt).replace("<image>", "").strip(),
        pictures=[small_data_uri(image, PICTURE_SIDE) for image in images],
        wide=not images or images[0].width > 1.25 * images[0].height,
        answers=(_text(case.task, first, second), _text(case.task, second, first)),
        reference=_text(case.task, case.reference),
    )


def render_page(sheet: str, items: Sequence[Item]) -> str:
    """The whole file. Its policy lets this script and this style run and nothing else."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(TEMPLATES, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = _source("review.js"), _source("review.css")
    return environment.get_template("review.html.j2").render(
        sheet=sheet,
        items=items,
        script=script,
        style=style,
        script_digest=_digest(script),
        style_digest=_digest(style),
    )


def _text(task: str, text: str, other: str | None = None) -> Text:
    shown = _showable(text)
    beside = None if other is None else _showable(other)
    marked = None if beside is None else marked_text(shown, beside)
    return Text(
        text=shown,
        hidden=len(text) - len(shown),
        rendering=rendering_of(task, shown, beside),
        marked=None if marked is None else Markup(marked),
    )


def _showable(text: str) -> str:
    """Of bounded length, in UTF-8, with no NUL, which HTML has no place for."""
    return writable(text[:MAX_CHARACTERS].replace("\0", "\ufffd"))


def _source(name: str) -> str:
    return (resources.files(TEMPLATES) / "templates" / name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    """As a content security policy names what it lets run."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")
