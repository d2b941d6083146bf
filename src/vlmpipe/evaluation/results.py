"""What validate leaves on the disk: results, predictions, small pictures for the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.images import to_rgb
from vlmpipe.evaluation.comparison import Comparison
from vlmpipe.evaluation.verdicts import Judgement
from vlmpipe.pipeline.files import write_json, write_text

RESULTS_NAME = "results.json"
PREDICTIONS_NAME = "predictions.jsonl"
PICTURES_FOLDER = "samples"
PICTURE_SIDE = 900
"""Longest side of a picture in the report, pixels: small print stays readable."""

PICTURES_PER_SPLIT = 6


def write_results(
    folder: Path,
    comparison: Comparison,
    judgement: Judgement,
    splits: Mapping[str, Sequence[Sample]],
) -> None:
    """Write `results.json`, `predictions.jsonl` and `samples/*.png` into a folder."""
    rows = (json.dumps(answer.as_row(), ensure_ascii=False) for answer in comparison.answers)
    write_text(folder / PREDICTIONS_NAME, "".join(f"{row}\n" for row in rows))
    write_json(
        folder / RESULTS_NAME,
        {
            "primary_metric": comparison.primary_metric,
            "splits": {split: len(samples) for split, samples in splits.items()},
            "metrics": finite(comparison.metrics),
            "reliance": {
                "split": comparison.reliance_split,
                "samples": comparison.reliance_samples,
                "not_measured": comparison.reliance_unmeasured,
            },
            "passed": judgement.passed,
            "reasons": judgement.reasons,
            "notes": judgement.notes,
            "gallery": _write_pictures(folder, splits),
        },
    )


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics that are numbers: JSON has no other."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


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
