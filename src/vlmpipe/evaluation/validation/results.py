"""What validate leaves on the disk: results, predictions, small pictures for the report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.images import to_rgb
from vlmpipe.evaluation.answers import finite
from vlmpipe.evaluation.judging import JudgeSummary
from vlmpipe.evaluation.validation.figures import interval_json, paired_json
from vlmpipe.evaluation.validation.verdicts import Assessment, Judgement
from vlmpipe.pipeline.files import write_json, write_text

RESULTS_NAME = "results.json"
PREDICTIONS_NAME = "predictions.jsonl"
PICTURES_FOLDER = "samples"
PICTURE_SIDE = 900
"""Longest side of a picture in the report, pixels: small print stays readable."""

PICTURES_PER_SPLIT = 6


def write_results(
    folder: Path,
    assessment: Assessment,
    judgement: Judgement,
    splits: Mapping[str, Sequence[Sample]],
    judged: JudgeSummary | None = None,
) -> None:
    """Write `results.json`, `predictions.jsonl` and `samples/*.png` into a folder."""
    comparison, figures = assessment.comparison, assessment.figures
    records = (record for own in comparison.records.values() for record in own)
    write_text(folder / PREDICTIONS_NAME, "".join(record.as_line() for record in records))
    forgetting, phases = assessment.forgetting, assessment.phases
    write_json(
        folder / RESULTS_NAME,
        _plain(
            {
                "primary_metric": comparison.primary_metric,
                "splits": {split: len(samples) for split, samples in splits.items()},
                "tasks": {
                    split: dict(Counter(sample.task for sample in samples))
                    for split, samples in splits.items()
                },
                "metrics": finite(figures.metrics),
                "intervals": {
                    name: interval_json(each) for name, each in figures.intervals.items()
                },
                "paired": paired_json(figures.paired),
                "reliance": {
                    "split": comparison.reliance_split,
                    "samples": comparison.reliance_samples,
                    "not_measured": comparison.reliance_unmeasured,
                },
                "general": None if forgetting is None else forgetting.as_json(),
                "phases": None if phases is None else phases.as_json(),
                "judge": None if judged is None else judged.model_dump(mode="json"),
                "passed": judgement.passed,
                "verdicts": [each.as_json() for each in judgement.verdicts],
                "reasons": judgement.reasons,
                "notes": judgement.notes,
                "gallery": _write_pictures(folder, splits),
            }
        ),
    )


def _plain(value: Any) -> Any:
    """JSON values; what is no number becomes null, since JSON has no other."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_pictures(folder: Path, splits: Mapping[str, Sequence[Sample]]) -> list[dict[str, Any]]:
    """The first samples of each split with their pictures, by name of the file."""
    pictures = folder / PICTURES_FOLDER
    pictures.mkdir(exist_ok=True)
    return [
        {
            "sample": sample.id,
            "split": split,
            "pictures": _write_sample(pictures, f"{split}_{number:02d}", sample),
        }
        for split, samples in splits.items()
        for number, sample in enumerate(samples[:PICTURES_PER_SPLIT])
    ]


def _write_sample(folder: Path, stem: str, sample: Sample) -> list[str]:
    names = []
    for number, image in enumerate(sample.images):
        small = to_rgb(image).copy()
        small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        name = f"{stem}_{number}.png"
        small.save(folder / name, optimize=True)
        names.append(f"{PICTURES_FOLDER}/{name}")
    return names
