"""What is judged: a sample with what engines answered, from the run's records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from vlmpipe.config import Config
from vlmpipe.errors import ArtifactError, ConfigError
from vlmpipe.evaluation.published import published_stages
from vlmpipe.evaluation.records import PREDICTIONS_FOLDER, Record, file_name, read_records
from vlmpipe.evaluation.sources import SampleSource, inputs_digest, open_source
from vlmpipe.tasks import task_of


@dataclass(frozen=True)
class Case:
    """One sample, and the answers to it."""

    sample: str
    split: str
    task: str
    prompt: str
    """`<image>` where an image stands."""

    images: Sequence[Image.Image]
    reference: str
    answers: Mapping[str, str]
    """By engine. Nobody vouches for what stands in them."""

    scores: Mapping[str, float] = field(default_factory=dict)
    """The task's primary metric by engine, larger is better; left out where not measured."""

    @property
    def digests(self) -> dict[str, str]:
        """Of each answer, to see later that a verdict was on this one."""
        return {name: text_digest(text) for name, text in self.answers.items()}


@dataclass(frozen=True)
class CaseSource:
    """Cases one after another; the images of one at a time are in memory."""

    source: SampleSource
    records: Mapping[str, Mapping[str, Record]]
    """By sample, then by engine."""

    unanswered: Mapping[str, int]
    """Samples that are left out, by the engine that failed on them or was never asked."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.records)

    def differing(self, limit: int | None = None) -> CaseSource:
        """The samples whose answers are not all the same, `limit` at most."""
        kept = [name for name, own in self.records.items() if not _same(own)]
        return replace(self, records={name: self.records[name] for name in drawn(kept, limit)})

    @property
    def identical(self) -> int:
        """Samples whose answers are all the same."""
        return sum(_same(own) for own in self.records.values())

    def __iter__(self) -> Iterator[Case]:
        """In the order of the data.

        Raises:
            ArtifactError: for a sample that is not what the engines were asked.
        """
        left = dict(self.records)
        for sample in self.source:
            own = left.pop(sample.id, None)
            if own is None:
                continue
            if {record.inputs for record in own.values()} != {inputs_digest(sample)}:
                raise _changed(sample.id)
            yield _case(own, sample.images)
        if left:
            raise _changed(next(iter(left)))


def cases_of_run(
    config: Config, engines: Sequence[str], data: str, limit: int | None = None
) -> CaseSource:
    """What the engines of the configured run answered to `heldout`, `train` or a file of messages.

    Raises:
        ConfigError: for data, or engines, that there is nothing of.
        ArtifactError: for records or manifests that cannot be read.
    """
    folder = config.run.outputs_dir / config.run.name
    setup = published_stages(folder).get("setup")
    source = open_source(config, data, setup.folder if setup else None, None)
    return open_cases(folder, engines, source, limit)


def open_cases(
    run_folder: Path, engines: Sequence[str], source: SampleSource, limit: int | None = None
) -> CaseSource:
    """The samples of a source that every engine answered, `limit` at most.

    Raises:
        ConfigError: for an engine without records, or where no sample was answered by all.
        ArtifactError: for records that cannot be read.
    """
    answered = {name: _answered(run_folder, name, source.name) for name in engines}
    every = dict.fromkeys(sample for own in answered.values() for sample in own)
    shared = [sample for sample in every if all(sample in own for own in answered.values())]
    if not shared:
        raise ConfigError(
            f"no sample of {source.name!r} was answered by {' and '.join(engines)}",
            f"evaluate them on the same data: `vlmpipe evaluate --engines {','.join(engines)}`",
            "or choose the data that they were asked: --data heldout|train|FILE.jsonl",
        )
    kept = drawn(shared, limit)
    return CaseSource(
        source=source,
        records={sample: {name: answered[name][sample] for name in engines} for sample in kept},
        unanswered={name: len(every) - len(own) for name, own in answered.items()},
    )


def drawn(samples: Sequence[str], limit: int | None) -> list[str]:
    """At most `limit` of them, the same ones each time whatever their order: by a digest of the id,
    since the first ones of a file are often of one kind.
    """
    if limit is None or limit >= len(samples):
        return list(samples)
    chosen = set(sorted(samples, key=text_digest)[:limit])
    return [sample for sample in samples if sample in chosen]


def text_digest(text: str) -> str:
    """sha256 of any text, half characters too; 16 hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _answered(run_folder: Path, engine: str, split: str) -> dict[str, Record]:
    path = run_folder / PREDICTIONS_FOLDER / file_name(engine)
    if not path.is_file():
        raise ConfigError(
            f"{engine} was not evaluated in this run: there is no {path}",
            f"ask it: `vlmpipe evaluate --engines {engine}` with the same options",
        )
    records = (record for record in read_records(path) if record.split == split)
    return {record.sample: record for record in records if record.status == "answered"}


def _same(records: Mapping[str, Record]) -> bool:
    return len({record.prediction.strip() for record in records.values()}) == 1


def _case(records: Mapping[str, Record], images: Sequence[Image.Image]) -> Case:
    first = next(iter(records.values()))
    return Case(
        sample=first.sample,
        split=first.split,
        task=first.task,
        prompt=first.prompt,
        images=images,
        reference=first.reference,
        answers={name: record.prediction for name, record in records.items()},
        scores=_scores(first.task, records),
    )


def _scores(task: str, records: Mapping[str, Record]) -> dict[str, float]:
    """An answer that could not be measured counts as 0, as it does in the metric's own mean."""
    primary = task_of(task).primary_metric
    found = {
        name: 0.0 if record.unmeasured else record.metrics.get(primary)
        for name, record in records.items()
    }
    return {name: value for name, value in found.items() if value is not None}


def _changed(sample: str) -> ArtifactError:
    return ArtifactError(
        f"the sample {sample!r} is not, or no longer, what the engines were asked",
        "evaluate again, so that the answers are to the data as it is now",
        "or give the data that they were asked: --data FILE.jsonl",
    )
