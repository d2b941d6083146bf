"""Every engine in turn over the same samples; one that fails does not stop the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlmpipe.errors import VlmpipeError
from vlmpipe.evaluation.measuring import MetricPool
from vlmpipe.evaluation.records import read_records
from vlmpipe.evaluation.side_by_side.run import Pass, Setting, ask_engine
from vlmpipe.evaluation.statistics import Paired
from vlmpipe.evaluation.summary import SplitSummary, Values, collect
from vlmpipe.evaluation.systems import SystemOrder
from vlmpipe.pipeline.events import Reporter


@dataclass(frozen=True)
class Standing:
    """One engine beside the others, on the samples of this evaluation."""

    engine: str
    summary: SplitSummary
    against_first: Paired | None
    """Primary metric, this engine minus the first; None for the first itself."""

    same_answers: float | None
    """Share of common samples that it answered word for word as the first did."""


@dataclass(frozen=True)
class Evaluation:
    """What every engine came to."""

    passes: Sequence[Pass]
    refused: dict[str, VlmpipeError]
    """Engines that could not be opened."""

    standings: Sequence[Standing]

    @property
    def complete(self) -> bool:
        """Whether every engine was asked every sample and answered it."""
        return not self.refused and not any(p.given_up or p.failed for p in self.passes)


def evaluate(orders: Sequence[SystemOrder], setting: Setting, reporter: Reporter) -> Evaluation:
    """Ask every engine what it has not answered yet, and set them side by side."""
    passes: list[Pass] = []
    refused: dict[str, VlmpipeError] = {}
    with MetricPool() as pool:
        for order in orders:
            try:
                passes.append(ask_engine(order, setting, pool, reporter.progress))
            except VlmpipeError as error:
                refused[order.name] = error
            reporter.progress_done()
            reporter.note(_line(order.name, passes, refused))
    return Evaluation(passes, refused, _standings(passes, setting.source.name))


def _line(name: str, passes: Sequence[Pass], refused: dict[str, VlmpipeError]) -> str:
    if name in refused:
        return refused[name].message
    last = passes[-1]
    known = f", {last.known} answered before" if last.known else ""
    failed = f", {last.failed} failed" if last.failed else ""
    aside = f"; records of an earlier state are in {last.set_aside}" if last.set_aside else ""
    end = f"; given up: {last.given_up}" if last.given_up else ""
    return f"{name}: {last.written} asked{known}{failed}{aside}{end}"


def _standings(passes: Sequence[Pass], split: str) -> list[Standing]:
    found: list[Standing] = []
    first: tuple[Values, dict[str, str]] | None = None
    for each in passes:
        values = collect(read_records(each.path), each.engine).get(split)
        if values is None:
            continue
        texts = _digests(each, split)
        found.append(
            Standing(
                engine=each.engine,
                summary=values.summary(),
                against_first=(
                    values.paired_with(first[0], values.primary_metric) if first else None
                ),
                same_answers=_same(first[1], texts) if first else None,
            )
        )
        first = first or (values, texts)
    return found


def _digests(each: Pass, split: str) -> dict[str, Any]:
    """A digest of each answer by sample id: texts of thousands need not be held."""
    return {
        record.sample: hash(record.prediction)
        for record in read_records(each.path)
        if record.split == split and record.status == "answered"
    }


def _same(first: dict[str, Any], second: dict[str, Any]) -> float | None:
    common = first.keys() & second.keys()
    return sum(first[key] == second[key] for key in common) / len(common) if common else None
