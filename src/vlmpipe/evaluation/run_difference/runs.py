"""Finding two runs, and everything in which they differ."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlmpipe.errors import ConfigError
from vlmpipe.evaluation.published import PublishedStage, published_stages
from vlmpipe.evaluation.run_difference.answers import EngineDifference, compare_answers
from vlmpipe.evaluation.run_difference.books import read_answers
from vlmpipe.evaluation.run_difference.data import DataDifference, compare_data
from vlmpipe.evaluation.run_difference.values import (
    Change,
    StageMetrics,
    changed_settings,
    changed_surroundings,
    common,
    stage_metrics,
)


@dataclass(frozen=True)
class Run:
    """A run's folder with what it published."""

    folder: Path
    stages: Mapping[str, PublishedStage]

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.resolve().name


@dataclass(frozen=True)
class RunDifference:
    """The second run against the first, over the stages that both published."""

    folders: tuple[Path, Path]
    only_first: tuple[str, ...]
    """Stages that only the first run published."""

    only_second: tuple[str, ...]
    settings: tuple[Change, ...]
    surroundings: tuple[Change, ...]
    """Libraries, device, commit, versions of the stages."""

    data: DataDifference | None
    """None where a run has no prepared data."""

    metrics: tuple[StageMetrics, ...]
    answers: EngineDifference

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = asdict(self)
        found["folders"] = [str(folder) for folder in self.folders]
        for stage, own in zip(self.metrics, found["metrics"], strict=True):
            for change, row in zip(stage.metrics, own["metrics"], strict=True):
                row["difference"] = change.difference
        for answers, row in zip(self.answers.answers, found["answers"]["answers"], strict=True):
            for name, paired in answers.metrics.items():
                row["metrics"][name]["significant"] = paired.significant
        return found


def find_run(asked: str, outputs: Path) -> Run:
    """A run by its name under `outputs`, or by its path.

    Raises:
        ConfigError: when there is none, with the nearest names.
        ArtifactError: when one of its manifests is damaged.
    """
    for folder in (outputs / asked, Path(asked).expanduser()):
        if folder.is_dir():
            stages = published_stages(folder)
            if stages:
                return Run(folder, stages)
            raise ConfigError(
                f"{folder} is no run: no stage is published in it",
                f"name a run under {outputs}, or give a run's folder",
            )
    raise ConfigError(
        f"there is no run {asked!r}{_near(asked, outputs)}",
        f"name a run under {outputs}, or give a run's folder",
        "look elsewhere for names: --outputs-dir FOLDER",
    )


def compare_runs(first: Run, second: Run) -> RunDifference:
    """Everything that differs.

    Raises:
        ArtifactError: when the samples of one cannot be read.
    """
    one, two = first.stages, second.stages
    both = common(one, two)
    return RunDifference(
        folders=(first.folder, second.folder),
        only_first=tuple(name for name in one if name not in two),
        only_second=tuple(name for name in two if name not in one),
        settings=tuple(changed_settings(one, two)),
        surroundings=tuple(changed_surroundings(one, two)),
        data=compare_data(one["setup"], two["setup"]) if "setup" in both else None,
        metrics=tuple(stage_metrics(one, two)),
        answers=compare_answers(
            read_answers("first", first.folder, one), read_answers("second", second.folder, two)
        ),
    )


def _near(asked: str, outputs: Path) -> str:
    there = sorted(path.name for path in outputs.glob("*/")) if outputs.is_dir() else []
    close = difflib.get_close_matches(Path(asked).name, there, n=3)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f" (runs in {outputs}: {', '.join(there[:12]) or 'none'})"
