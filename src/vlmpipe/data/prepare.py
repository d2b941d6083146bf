"""Sources or generator in, audited and split samples out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlmpipe.config import Config
from vlmpipe.config.data import DataSource
from vlmpipe.data.audit import Accepted, Auditor, SampleCheck
from vlmpipe.data.mixing import GeneralFacts, GeneralMix
from vlmpipe.data.problems import Candidate
from vlmpipe.data.rows import ROWS_PER_GROUP, features, to_row, write_parquet
from vlmpipe.data.sources import candidates
from vlmpipe.data.splitting import heldout_positions
from vlmpipe.data.store import load_split
from vlmpipe.errors import BadSamplesError, ConfigError
from vlmpipe.pipeline.events import Reporter
from vlmpipe.pipeline.files import sha256_of, write_json
from vlmpipe.tasks import TASKS, task_named

SKIP = "or leave them out: data.on_bad_sample=skip"
FORM = (
    "each line of a source is one JSON object, in UTF-8:"
    ' {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}'
)
LISTED = 20
"""Problems shown; the log holds all of them."""


@dataclass(frozen=True)
class SplitFacts:
    """What one split holds."""

    samples: int
    tasks: dict[str, int]
    images: int
    largest_image: tuple[int, int] | None
    """Width and height of the image of most pixels."""


@dataclass(frozen=True)
class DataSummary:
    """What was prepared; data.json holds the same."""

    train: SplitFacts
    heldout: SplitFacts
    seed: int
    heldout_fraction: float
    skipped: int
    problems: tuple[str, ...]
    """`file:line: what`, for each sample skipped."""

    sources: tuple[dict[str, Any], ...]
    """Path, sha256, weight and number of usable samples of each file."""

    notes: tuple[str, ...]
    """Lines for the person who watches."""

    general: GeneralFacts | None = None
    """What is trained on beside the split `train`, against forgetting."""

    general_sources: tuple[dict[str, Any], ...] = ()
    """As `sources`, of the general samples' files."""


def prepare_data(
    config: Config,
    folder: Path,
    reporter: Reporter,
    check_sample: SampleCheck | None = None,
    *,
    wants_images: bool = True,
) -> DataSummary:
    """Write `train.parquet`, `heldout.parquet` and `data.json` into `folder`; with
    `data.general_ratio` also `general.parquet`.

    `check_sample` says what else makes a sample unusable (too long for the context, say);
    `wants_images` is False for text-only models, to which a sample with an image is a bad one.

    Raises:
        ConfigError: a source that cannot be opened, or a generator that does not suit the model.
        BadSamplesError: bad samples under `data.on_bad_sample=refuse`, or no usable one at all.
    """
    if not config.data.sources and not wants_images:
        _refuse_pictures(config)
    folder.mkdir(parents=True, exist_ok=True)
    auditor = Auditor(
        generated=not config.data.sources, wants_images=wants_images, check_sample=check_sample
    )
    with TemporaryDirectory(prefix="spool-", dir=folder) as scratch:
        spool = Path(scratch) / "samples.arrow"
        _fill(spool, auditor, _counted(candidates(config), config, reporter), config)
        reporter.progress_done()
        _refuse_bad(auditor.problems, len(auditor.accepted), config)
        sides = _sides(auditor.accepted, config)
        mix = _general_mix(Path(scratch), sides, check_sample, config, wants_images)
        _write_splits(spool, folder, sides)
        general = mix.write(folder, load_split(folder, "train")) if mix else None
    summary = _summary(auditor, sides, config, mix, general)
    write_json(folder / "data.json", asdict(summary))
    for note in summary.notes:
        reporter.note(note)
    return summary


def _refuse_pictures(config: Config) -> None:
    task = task_named(config.data.task)
    if task.generate(0, config.run.seed, config.data.synthetic.difficulty).images:
        raise ConfigError(
            f"data.task {task.name!r} generates images, and the model reads text only",
            "choose text questions: data.task=qa",
            "or a vision-language model: model.id=embedded:tiny",
            "or give text samples of your own: data.sources=[...]",
        )


def _counted(every: Iterable[Candidate], config: Config, reporter: Reporter) -> Iterator[Candidate]:
    """The same candidates, reported as they pass."""
    total = None if config.data.sources else float(config.data.synthetic.n)
    for done, candidate in enumerate(every):
        reporter.progress("reading samples", done, total)
        yield candidate


def _fill(spool: Path, auditor: Auditor, every: Iterable[Candidate], config: Config) -> None:
    """Write each usable sample to a file as soon as it is read: memory holds a few at a time."""
    from datasets.arrow_writer import ArrowWriter

    usable = islice(auditor.usable(every), config.data.max_samples)
    with ArrowWriter(
        path=str(spool), features=features(), writer_batch_size=ROWS_PER_GROUP
    ) as writer:
        for sample, weight in usable:
            writer.write(to_row(sample, weight))
        writer.finalize()


def _refuse_bad(
    problems: Sequence[str], good: int, config: Config, key: str = "data.sources"
) -> None:
    if problems and config.data.on_bad_sample == "refuse":
        raise BadSamplesError(
            f"{len(problems)} of {len(problems) + good} samples cannot be used",
            "mend or remove them",
            *((SKIP,) if good else _when_all_are_bad(problems)),
            problems=_listed(problems),
        )
    if not good:
        raise BadSamplesError(
            "there is no usable sample",
            *_when_all_are_bad(problems),
            f"look at {key}, or use the synthetic generator: {key}=[]",
            problems=_listed(problems),
        )


def _when_all_are_bad(problems: Sequence[str]) -> tuple[str, ...]:
    """Most often a file in another form: a JSON array, another program's records, UTF-16."""
    foreign = ("not valid JSON", "not UTF-8", '"messages" is not')
    return (FORM,) if any(mark in problem for problem in problems for mark in foreign) else ()


def _listed(problems: Sequence[str]) -> list[str]:
    rest = len(problems) - LISTED
    more = [f"and {rest} more, all in the log"] if rest > 0 else []
    return [*problems[:LISTED], *more]


@dataclass(frozen=True)
class _Sides:
    """Usable samples by position in the order in which they were read."""

    train: dict[int, Accepted]
    heldout: dict[int, Accepted]


def _sides(accepted: Sequence[Accepted], config: Config) -> _Sides:
    heldout = heldout_positions(
        [each.keys for each in accepted],
        config.data.heldout_fraction,
        config.run.seed,
        [position for position, each in enumerate(accepted) if each.pinned],
    )
    every = dict(enumerate(accepted))
    return _Sides(
        train={place: each for place, each in every.items() if place not in heldout},
        heldout={place: each for place, each in every.items() if place in heldout},
    )


def _general_mix(
    scratch: Path,
    sides: _Sides,
    check_sample: SampleCheck | None,
    config: Config,
    wants_images: bool,
) -> GeneralMix | None:
    """Drawn, and not yet written; None where none is asked for."""
    if not config.data.general_ratio:
        return None
    mix = GeneralMix.of(
        config,
        list(sides.train.values()),
        list(sides.heldout.values()),
        check_sample,
        wants_images=wants_images,
        spool=scratch / "general.arrow",
    )
    mix.fill()
    _refuse_bad(mix.problems, len(mix.factors), config, "data.general_sources")
    return mix


def _write_splits(spool: Path, folder: Path, sides: _Sides) -> None:
    """Both splits in the order in which the samples were read."""
    from datasets import Dataset

    every = Dataset.from_file(str(spool))
    for name, side in (("train", sides.train), ("heldout", sides.heldout)):
        write_parquet(every.select(list(side)), folder / f"{name}.parquet")


def _summary(
    auditor: Auditor,
    sides: _Sides,
    config: Config,
    mix: GeneralMix | None,
    general: GeneralFacts | None,
) -> DataSummary:
    problems = [*auditor.problems, *(mix.problems if mix else ())]
    accepted = mix.auditor.accepted if mix else ()
    return DataSummary(
        train=_facts(list(sides.train.values())),
        heldout=_facts(list(sides.heldout.values())),
        seed=config.run.seed,
        heldout_fraction=config.data.heldout_fraction,
        skipped=len(problems),
        problems=tuple(problems),
        sources=_source_facts(auditor.accepted, config.data.sources),
        notes=(*_notes(auditor, problems, sides, config), *(general.notes if general else ())),
        general=general,
        general_sources=_source_facts(accepted, config.data.general_sources if mix else ()),
    )


def _facts(side: Sequence[Accepted]) -> SplitFacts:
    sizes = [size for each in side for size in each.image_sizes]
    return SplitFacts(
        samples=len(side),
        tasks=dict(sorted(Counter(each.task for each in side).items())),
        images=len(sizes),
        largest_image=max(sizes, key=lambda size: size[0] * size[1], default=None),
    )


def _source_facts(
    accepted: Sequence[Accepted], sources: Sequence[DataSource]
) -> tuple[dict[str, Any], ...]:
    counts = Counter(each.source for each in accepted)
    return tuple(
        {
            "path": str(source.path),
            "sha256": sha256_of(source.path),
            "weight": source.weight,
            "samples": counts[place],
        }
        for place, source in enumerate(sources)
    )


def _notes(
    auditor: Auditor, problems: Sequence[str], sides: _Sides, config: Config
) -> Iterator[str]:
    if problems:
        plural = "" if len(problems) == 1 else "s"
        yield f"{len(problems)} bad sample{plural} left out, listed in data.json"
    if auditor.repeats:
        yield (
            f"{auditor.repeats} of {config.data.synthetic.n} generated samples repeated others"
            " and were left out"
        )
    if config.data.heldout_fraction and not sides.heldout:
        yield "nothing could be held out: all samples share their content, or are always trained on"
    foreign = sorted({each.task for each in auditor.accepted} - TASKS.keys())
    if foreign:
        yield f"answers of task {', '.join(foreign)} are measured as plain text"
