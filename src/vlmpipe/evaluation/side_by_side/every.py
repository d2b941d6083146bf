"""Every engine in turn over the same samples; one that fails does not stop the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlmpipe.errors import VlmpipeError
from vlmpipe.evaluation.measuring import MetricPool
from vlmpipe.evaluation.records import Record, read_records
from vlmpipe.evaluation.side_by_side.run import Pass, Setting, ask_engine
from vlmpipe.evaluation.statistics import Paired
from vlmpipe.evaluation.summary import SplitSummary, Values, collect
from vlmpipe.evaluation.systems import SystemOrder
from vlmpipe.pipeline.events import Reporter

AS_TRAINED = ("hf:adapter", "hf:full")
"""What every other engine should be equal to."""


@dataclass(frozen=True)
class Standing:
    """One engine beside the others, on the samples of this evaluation."""

    engine: str
    summary: SplitSummary
    difference: Paired | None
    """Primary metric, this engine minus the one that all are held against; None for that one."""

    same_answers: float | None
    """Share of common samples that it answered word for word as that one did."""


@dataclass(frozen=True)
class Evaluation:
    """What every engine came to."""

    passes: Sequence[Pass]
    refused: dict[str, VlmpipeError]
    """Engines that could not be opened."""

    against: str
    """The engine that the others are held against."""

    standings: Sequence[Standing]

    @property
    def complete(self) -> bool:
        """Whether every engine was asked every sample and answered it."""
        return not self.refused and not any(p.given_up or p.failed for p in self.passes)


def evaluate(
    orders: Sequence[SystemOrder],
    setting: Setting,
    reporter: Reporter,
    *,
    against: str | None = None,
) -> Evaluation:
    """Ask every engine what it has not answered yet, and set them side by side.

    They are held against the engine `against`; unset, the model as it was trained where it is among
    them, else the first.
    """
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
    names = [each.engine for each in passes]
    chosen = against if against in names else _reference(names)
    if against and chosen and against != chosen:
        reporter.note(f"{against} was not asked: the others are held against {chosen}")
    return Evaluation(passes, refused, chosen, _standings(passes, setting.source.name, chosen))


def _reference(names: Sequence[str]) -> str:
    trained = [name for name in names if name in AS_TRAINED]
    return next(iter([*trained, *names]), "")


def _line(name: str, passes: Sequence[Pass], refused: dict[str, VlmpipeError]) -> str:
    if name in refused:
        return f"not opened: {refused[name].message}"
    last = passes[-1]
    known = f", {last.known} answered before" if last.known else ""
    failed = f", {last.failed} failed" if last.failed else ""
    aside = f"; records of an earlier state are in {last.set_aside}" if last.set_aside else ""
    end = f"; given up: {last.given_up}" if last.given_up else ""
    return f"{name}: {last.written} asked{known}{failed}{aside}{end}"


def _standings(passes: Sequence[Pass], split: str, against: str) -> list[Standing]:
    asked = {each.engine: each for each in passes}
    chosen = _answers(asked[against], split) if against in asked else None
    found = []
    for each in passes:
        own = chosen if each.engine == against and chosen else _answers(each, split)
        if own is not None:
            found.append(_standing(own, None if each.engine == against else chosen))
    return found


def _standing(own: _Answers, chosen: _Answers | None) -> Standing:
    values = own.values
    if chosen is None:
        return Standing(values.engine, values.summary(), None, None)
    return Standing(
        engine=values.engine,
        summary=values.summary(),
        difference=values.paired_with(chosen.values, values.primary_metric),
        same_answers=_same(chosen.texts, own.texts),
    )


@dataclass(frozen=True)
class _Answers:
    """One engine's values on the split, and a digest of each text by sample id: texts of thousands
    need not be held.
    """

    values: Values
    texts: dict[str, int]


def _answers(each: Pass, split: str) -> _Answers | None:
    values = collect(_records(each, split), each.engine).get(split)
    if values is None:
        return None
    texts = {
        record.sample: hash(record.prediction)
        for record in _records(each, split)
        if record.status == "answered"
    }
    return _Answers(values, texts)


def _records(each: Pass, split: str) -> Iterator[Record]:
    """Of the samples that this evaluation is about: a file may hold more of the split."""
    return (
        record
        for record in read_records(each.path)
        if record.split == split and (each.samples is None or record.sample in each.samples)
    )


def _same(first: dict[str, int], second: dict[str, int]) -> float | None:
    common = first.keys() & second.keys()
    return sum(first[key] == second[key] for key in common) / len(common) if common else None
