"""The data and the base model of two runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlmpipe.data.store import Split, load_split
from vlmpipe.errors import ArtifactError
from vlmpipe.evaluation.published import PublishedStage
from vlmpipe.evaluation.run_difference.values import ABSENT, Change

SPLITS: tuple[Split, ...] = ("train", "heldout")
BASE_MODEL = ("id", "revision", "digest", "parameters")


@dataclass(frozen=True)
class SplitDifference:
    """One split in both runs; samples are told apart by their ids."""

    split: str
    digests: tuple[str, str]
    """sha256 of the files."""

    samples: tuple[int, int]
    added: tuple[str, ...]
    """Ids that only the second run has."""

    removed: tuple[str, ...]
    """Ids that only the first one has."""

    @property
    def same(self) -> bool:
        """Whether the files are equal, byte for byte."""
        return self.digests[0] == self.digests[1]

    @property
    def sentence(self) -> str:
        """For people."""
        first, second = self.samples
        if self.same:
            return f"the same {first} samples"
        if not self.added and not self.removed:
            return f"{first} samples of the same ids, and not the same content"
        kept = first - len(self.removed)
        return (
            f"{first} samples against {second}: {kept} ids in both, {len(self.removed)} only in the"
            f" first, {len(self.added)} only in the second"
        )


@dataclass(frozen=True)
class DataDifference:
    """Base model and splits."""

    base_model: tuple[Change, ...]
    """Empty where it is the same."""

    splits: tuple[SplitDifference, ...]
    moved: tuple[str, ...]
    """Ids that one run trained on and the other held out: their held-out figures do not compare."""


def compare_data(first: PublishedStage, second: PublishedStage) -> DataDifference:
    """The setup stages of two runs.

    Raises:
        ArtifactError: when the samples of one cannot be read.
    """
    ids = {split: [_ids(stage, split) for stage in (first, second)] for split in SPLITS}
    splits = tuple(_split(split, ids[split], (first, second)) for split in SPLITS)
    crossed = (set(ids["train"][a]) & set(ids["heldout"][1 - a]) for a in (0, 1))
    return DataDifference(_base_model(first, second), splits, tuple(sorted(set().union(*crossed))))


def _split(
    split: Split, ids: list[list[str]], stages: tuple[PublishedStage, PublishedStage]
) -> SplitDifference:
    before, after = ids
    return SplitDifference(
        split=split,
        digests=(_digest(stages[0], split), _digest(stages[1], split)),
        samples=(len(before), len(after)),
        added=_without(after, before),
        removed=_without(before, after),
    )


def _without(ids: list[str], others: list[str]) -> tuple[str, ...]:
    known = set(others)
    return tuple(each for each in ids if each not in known)


def _ids(stage: PublishedStage, split: Split) -> list[str]:
    return [str(each) for each in load_split(stage.folder / "data", split).column("id")]


def _digest(stage: PublishedStage, split: Split) -> str:
    record = stage.manifest.outputs.get(f"data/{split}.parquet")
    if record is None:
        raise ArtifactError(
            f"{stage.folder} published no data/{split}.parquet",
            "prepare the data again: `vlmpipe run-all --force setup` with the same options",
        )
    return record.sha256


def _base_model(first: PublishedStage, second: PublishedStage) -> tuple[Change, ...]:
    before, after = (_facts(stage) for stage in (first, second))
    return tuple(
        Change(name, before.get(name, ABSENT), after.get(name, ABSENT), ("setup",))
        for name in BASE_MODEL
        if before.get(name) != after.get(name)
    )


def _facts(stage: PublishedStage) -> dict[str, Any]:
    found = stage.read_json("model.json")
    return found if isinstance(found, dict) else {}
