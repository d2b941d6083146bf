"""All engines over the same samples, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vlmpipe.evaluation.report.engine_rows import Column, RowGroup, row_groups
from vlmpipe.evaluation.report.figures import SPLITS
from vlmpipe.evaluation.report.survey import EngineFile, Key, SplitHeld, Survey
from vlmpipe.evaluation.summary import Values
from vlmpipe.tasks import task_of

LEAST_SHARE = 0.5
"""Of the samples that others answered: an engine below it would leave too few in common."""


@dataclass(frozen=True)
class SideBySide:
    """The table of one split."""

    title: str
    engines: Sequence[str]
    samples: int
    total: int
    """Samples that any engine was asked and answered."""

    asides: Sequence[str]
    """Engines that are not in the table, and why."""

    groups: Sequence[RowGroup]
    identical: Sequence[Sequence[float | None]]
    """Share of equal answers, engine by engine; empty for a single engine."""


def side_by_side(survey: Survey) -> list[SideBySide]:
    """One table for each split, held-out samples first."""
    splits = dict.fromkeys(split for file in survey.files for split in file.splits)
    order = sorted(splits, key=lambda split: (split != "heldout", split == "train", split))
    return [_table(split, survey.files) for split in order]


def _table(split: str, files: Sequence[EngineFile]) -> SideBySide:
    held = [(file, file.splits[split]) for file in files if split in file.splits]
    most = max(len(own.answered) for _, own in held)
    kept = [(file, own) for file, own in held if len(own.answered) >= max(1, LEAST_SHARE * most)]
    asides = [_aside(file, own, most) for file, own in held if (file, own) not in kept]
    common = frozenset.intersection(*(frozenset(own.answered) for _, own in kept)) if kept else None
    union = {key for _, own in held for key in own.answered}
    columns = [_column(file, own, split, common or frozenset()) for file, own in kept]
    return SideBySide(
        title=SPLITS.get(split, split),
        engines=[column.file.engine for column in columns],
        samples=len(common or ()),
        total=len(union),
        asides=asides,
        groups=row_groups(columns, _primary(held), split) if common else [],
        identical=_identical(columns, common) if common and len(columns) > 1 else [],
    )


def _aside(file: EngineFile, held: SplitHeld, most: int) -> str:
    why = f": {held.first_error}" if held.first_error else ""
    return f"{file.engine} answered {len(held.answered)} of {most} samples{why}"


def _column(file: EngineFile, held: SplitHeld, split: str, common: frozenset[Key]) -> Column:
    values = Values(file.engine, split)
    for record in file.records():
        own = record.split == split and (record.sample, record.inputs) in common
        if own and record.status == "answered":
            values.add(record)
    return Column(file, held, values, whole=len(common) == len(held.answered))


def _primary(held: Sequence[tuple[EngineFile, SplitHeld]]) -> str:
    tasks = sum((own.tasks for _, own in held), Counter[str]())
    return task_of(tasks.most_common(1)[0][0]).primary_metric


def _identical(columns: Sequence[Column], common: frozenset[Key]) -> list[list[float | None]]:
    """Share of the common samples that two engines answered letter for letter alike."""
    return [
        [
            None
            if one is other
            else sum(one.held.answered[key] == other.held.answered[key] for key in common)
            / len(common)
            for other in columns
        ]
        for one in columns
    ]


def identities(survey: Survey) -> list[tuple[str, list[tuple[str, str]]]]:
    """What each engine is, by name: (fact, value) pairs."""
    return [(file.engine, _identity(file)) for file in survey.files]


def _identity(file: EngineFile) -> list[tuple[str, str]]:
    system = file.system
    sampling = system.sampling
    drawn = "greedy" if sampling.temperature == 0 else f"temperature {sampling.temperature:g}"
    found = [
        ("model", system.model_name),
        ("engine", f"{system.engine_type}, {system.engine_version}"),
        ("weights", _weights(system.merge_state, system.lora_enabled)),
        ("quantisation", system.quantization or "none, or not said"),
        ("images", f"resized by the {sampling.image_resize}"),
        ("computed with", ", ".join(f"{k} {v}" for k, v in sampling.compute.items()) or "not said"),
        ("answers", f"{drawn}, at most {sampling.max_new_tokens} tokens, seed {system.seed}"),
        ("preprocess contract", system.preprocess_contract[:12]),
    ]
    return found + [(name, f"sha256 {digest[:12]}…") for name, digest in system.digests.items()]


def _weights(state: str, lora: bool | None) -> str:
    words = {
        "base": "as published",
        "adapter": "base, adapter on top",
        "merged": "adapter merged in",
        "full": "every weight trained",
        "unknown": "a server's, which does not say",
    }
    return words.get(state, state) + (", LoRA on" if lora and state != "adapter" else "")


def contracts_differ(survey: Survey) -> bool:
    """Whether engines prepared images and text by different contracts."""
    return len({file.system.preprocess_contract for file in survey.files}) > 1
