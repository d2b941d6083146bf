"""The whole lower ladder of a set of files: references, files, the runtime's own resize, faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.encoding.conversation import Sample
from vlmpipe.export.parity.control import Blame, blame
from vlmpipe.export.parity.diagnosis import diagnose
from vlmpipe.export.parity.gguf_rungs import Above, GgufRung, LowerLadder, Opener
from vlmpipe.export.parity.ladder import read_answers
from vlmpipe.export.parity.probes import ProbeSet
from vlmpipe.export.parity.records import RungRecord
from vlmpipe.export.parity.references import ADAPTER, MERGED, Trained, as_trained, whole_model
from vlmpipe.export.parity.rung import Rung, ask_rung, measured
from vlmpipe.pipeline.events import Reporter

MakeControl = Callable[[Path], Opener]
"""Converts the base model into a folder, and opens it."""


@dataclass(frozen=True)
class MergedModel:
    """What merge handed on."""

    folder: Path
    """Of the stage: `model/`, and the answers to the probe set."""

    trained: Trained


@dataclass(frozen=True)
class Climbed:
    """The lower part of the ladder."""

    files: Sequence[GgufRung]
    runtime: RungRecord | None
    """The 16-bit file under the runtime's own resize; None for a model without images."""

    merged: Rung
    diagnosis: dict[str, Any] | None

    @property
    def merged_metric(self) -> float:
        """Mean primary task metric of the merged model."""
        return self.merged.answers.metric if self.merged.answers else 0.0

    @property
    def records(self) -> list[RungRecord]:
        """In the order of the ladder."""
        first, *others = self.files
        runtime = [self.runtime] if self.runtime else []
        return [*first.records, *runtime, *(each for rung in others for each in rung.records)]


def climb_files(
    merged: MergedModel,
    quants: Sequence[str],
    open_engine: Opener,
    make_control: MakeControl,
    probes: ProbeSet,
    scratch: Path,
    reporter: Reporter,
) -> Climbed:
    """Ask references and files, the 16-bit one (the first of `quants`) before all others.

    Where it fails, the part that departs is looked for, and the base model's own conversion asked.
    """
    trained = merged.trained
    rules, vision = trained.config.parity, trained.contract.has_vision
    progress = _Progress(reporter, len(probes.samples) * (2 + 2 * (len(quants) + vision)))
    above = _references(merged, probes, scratch, progress)
    ladder = LowerLadder(open_engine, above, probes, rules, scratch, progress)
    progress.label = quants[0]
    files = [ladder.climb(quants[0])]
    progress.label = f"{quants[0]}, the runtime's resize"
    runtime = ladder.climb_runtime_resize(quants[0]) if vision else None
    for quant in quants[1:]:
        progress.label = quant
        files.append(ladder.climb(quant))
    reporter.progress_done()
    diagnosis = None
    if not files[0].passed:
        reporter.note(f"{quants[0]} differs from the merged model: looking for the part at fault")
        worst = probes.samples[files[0].above.worst_probe or 0]
        diagnosis = _fault(merged, quants[0], worst, open_engine, make_control, probes, scratch)
    return Climbed(files, runtime, above.merged, diagnosis)


class _Progress:
    """Counts probes asked."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter, self._total, self._done = reporter, total, 0
        self.label = ""

    def __call__(self) -> None:
        self._done += 1
        self._reporter.progress("parity", self._done, self._total, rung=self.label)


def _references(merged: MergedModel, probes: ProbeSet, scratch: Path, progress: _Progress) -> Above:
    """Adapter and merged model, forced again; what they answered is known from merge."""
    trained, texts = merged.trained, read_answers(merged.folder)
    samples, limit = probes.samples, trained.config.parity.max_new_tokens
    rungs = {}
    model = whole_model(trained, merged.folder / "model")
    for name, opened in ((ADAPTER, as_trained(trained)), (MERGED, model)):
        progress.label = name
        with opened as engine:
            rungs[name] = ask_rung(
                engine,
                samples,
                scratch,
                name=name,
                max_new_tokens=limit,
                answers=measured(texts[name], samples),
                step=progress,
            )
    return Above(adapter=rungs[ADAPTER], merged=rungs[MERGED])


def _fault(
    merged: MergedModel,
    quant: str,
    worst: Sample,
    open_engine: Opener,
    make_control: MakeControl,
    probes: ProbeSet,
    scratch: Path,
) -> dict[str, Any]:
    """What departs on the probe that lies furthest off, and whose fault it is."""
    trained = merged.trained
    limit = trained.config.parity.limit(quant)
    other = open_engine(quant, "contract")
    try:
        with whole_model(trained, merged.folder / "model") as engine:
            found = diagnose(engine, other, worst, limit=limit)
    finally:
        other.close()
    control: Blame = blame(trained, make_control, probes, scratch / "control", limit=limit)
    return {**found.as_record(), **control.as_record()}
