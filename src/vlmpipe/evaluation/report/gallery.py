"""Samples with their pictures, the reference, and what base and tuned answered."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.evaluation.report.figures import MODELS, SPLITS
from vlmpipe.evaluation.report.rendering import Rendering, rendering_of
from vlmpipe.evaluation.report.stages import PublishedStage
from vlmpipe.evaluation.results import PREDICTIONS_NAME

SHOWN_CHARACTERS = 4000


@dataclass(frozen=True)
class ShownText:
    """A text that nobody vouches for: as it is, and as its task renders it."""

    title: str
    text: str
    hidden: int
    """Characters left out."""

    rendering: Rendering
    same: bool
    """Word for word the reference."""

    score: float | None = None
    cut: bool = False


@dataclass(frozen=True)
class ShownSample:
    """One sample of the gallery."""

    id: str
    split: str
    prompt: str
    pictures: Sequence[str]
    """`data:` URIs."""

    texts: Sequence[ShownText]
    """Reference, base, tuned."""


def shown_samples(validate: PublishedStage, results: Mapping[str, Any]) -> list[ShownSample]:
    """The samples that validate chose pictures of, held-out ones first."""
    rows = validate.read_rows(PREDICTIONS_NAME)
    answers = {(row.get("split"), row.get("sample"), row.get("model")): row for row in rows}
    primary = str(results.get("primary_metric", ""))
    chosen = sorted(results.get("gallery", []), key=lambda each: each["split"] != "heldout")
    found = []
    for each in chosen:
        own = [answers.get((each["split"], each["sample"], model)) for model in MODELS]
        known = [row for row in own if row is not None]
        if known:
            found.append(_sample(validate.folder, each, known, primary))
    return found


def shown_text(
    title: str,
    text: str,
    task: str,
    reference: str | None = None,
    *,
    score: float | None = None,
    cut: bool = False,
) -> ShownText:
    """A text to be shown: rendered, departures from a reference marked, length bounded."""
    shown = text[:SHOWN_CHARACTERS]
    return ShownText(
        title=title,
        text=shown,
        hidden=len(text) - len(shown),
        rendering=rendering_of(task, text, reference),
        same=reference is not None and text.strip() == reference.strip(),
        score=score,
        cut=cut,
    )


def _sample(
    folder: Path, chosen: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], primary: str
) -> ShownSample:
    first = answers[0]
    task = str(first.get("task", ""))
    texts = [shown_text("reference", str(first["reference"]), task)]
    texts += [
        shown_text(
            str(row["model"]),
            str(row["prediction"]),
            task,
            str(row["reference"]),
            score=row["metrics"].get(primary),
            cut=bool(row.get("cut")),
        )
        for row in answers
    ]
    return ShownSample(
        id=str(chosen["sample"]),
        split=SPLITS.get(chosen["split"], chosen["split"]),
        prompt=str(first["prompt"]),
        pictures=[_data_uri(folder / name) for name in chosen["pictures"]],
        texts=texts,
    )


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
