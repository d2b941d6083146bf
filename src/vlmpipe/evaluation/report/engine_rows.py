"""Rows of the table of engines: figures with intervals, and differences from the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.evaluation.report.survey import EngineFile, SplitHeld
from vlmpipe.evaluation.statistics import Interval, Paired, compare_paired
from vlmpipe.evaluation.summary import Figure, Values
from vlmpipe.tasks.metric_names import smaller_is_better, title_of

FORCED = ("loss", "perplexity", "token_accuracy")
SERVERS = ("openai", "ollama")
MOST_PAIRED = 2000
"""Samples beyond which the primary metric alone is tested: a test of 10,000 takes seconds."""


@dataclass(frozen=True)
class Column:
    """One engine over the samples that all of them answered."""

    file: EngineFile
    held: SplitHeld
    values: Values
    """Of the common samples alone."""

    whole: bool
    """Whether the common samples are all that it answered."""


@dataclass(frozen=True)
class EngineCell:
    """One engine's figure."""

    value: float | None
    interval: Interval | None = None
    difference: float | None = None
    """From the first engine, over the same samples."""

    p_value: float | None = None
    mark: str = ""
    """`better` or `worse` where chance does not explain the difference, else empty."""


@dataclass(frozen=True)
class EngineRow:
    """One figure of all engines."""

    title: str
    cells: Sequence[EngineCell]
    lower_is_better: bool = False
    unit: str = "figure"
    """How it is written: `figure`, `share`, `count`, `seconds`."""

    primary: bool = False


@dataclass(frozen=True)
class RowGroup:
    """Rows of one kind."""

    title: str
    rows: Sequence[EngineRow]


def row_groups(columns: Sequence[Column], primary: str, split: str) -> list[RowGroup]:
    """Answers, teacher-forced reference, speed and counts; rows that no engine has are left out."""
    summaries = [_summary(column, split) for column in columns]
    figures = [_figures(summary) for summary in summaries]
    names = dict.fromkeys([primary, *(name for own in figures for name in own)])
    task = [_metric_row(name, columns, figures, primary) for name in names if name not in FORCED]
    forced = [_metric_row(name, columns, figures, primary) for name in FORCED]
    groups = [
        RowGroup("answers", task),
        RowGroup("reference, teacher-forced", [*forced, *_reliance(columns, split)]),
        RowGroup("speed and memory", _speed(columns, summaries, split)),
        RowGroup("samples", _counts(columns)),
    ]
    kept = [RowGroup(group.title, [row for row in group.rows if _says(row)]) for group in groups]
    return [group for group in kept if group.rows]


def _summary(column: Column, split: str) -> Mapping[str, Any]:
    """As evaluate wrote it where it is of these very samples, else worked out anew."""
    splits = column.file.summary.get("splits")
    written = splits.get(split) if isinstance(splits, dict) else None
    known = len(column.values.keys)
    if column.whole and isinstance(written, dict) and written.get("answered") == known:
        return written
    return asdict(column.values.summary())


def _figures(summary: Mapping[str, Any]) -> dict[str, Figure]:
    return {
        name: Figure(
            value=found["value"],
            interval=Interval(**found["interval"]) if found.get("interval") else None,
            samples=found["samples"],
        )
        for name, found in summary["metrics"].items()
    }


def _metric_row(
    name: str,
    columns: Sequence[Column],
    figures: Sequence[Mapping[str, Figure]],
    primary: str,
) -> EngineRow:
    tested = name == primary or len(columns[0].values.keys) <= MOST_PAIRED
    return EngineRow(
        title=title_of(name),
        cells=[
            _metric_cell(name, own.get(name), column, columns[0] if tested else column)
            for column, own in zip(columns, figures, strict=True)
        ],
        lower_is_better=smaller_is_better(name),
        primary=name == primary,
    )


def _metric_cell(name: str, figure: Figure | None, column: Column, first: Column) -> EngineCell:
    if figure is None:
        return EngineCell(None)
    paired = None if column is first else _paired(name, column.values, first.values)
    if paired is None or paired.samples == 0:
        return EngineCell(figure.value, figure.interval)
    mark = ""
    if paired.significant:
        mark = "better" if (paired.difference < 0) == smaller_is_better(name) else "worse"
    return EngineCell(figure.value, figure.interval, paired.difference, paired.p_value, mark)


def _paired(name: str, own: Values, first: Values) -> Paired | None:
    """This engine minus the first, over samples that both have the figure for."""
    if name == "perplexity":
        return None  # the loss says the same, and its difference is the one with a scale
    if name not in FORCED:
        return own.paired_with(first, name)
    mine, theirs = _forced(name, own), _forced(name, first)
    common = [key for key in mine if key in theirs]
    return compare_paired([theirs[key] for key in common], [mine[key] for key in common])


def _forced(name: str, values: Values) -> Mapping[str, float]:
    if name == "token_accuracy":
        return values.accuracies
    return {key: loss for key, (loss, _) in values.losses.items()}


def _reliance(columns: Sequence[Column], split: str) -> list[EngineRow]:
    """Gains of the true image; measured on a few samples, so without a difference."""
    measured = [column.file.noted(split).get("reliance") for column in columns]
    return [
        EngineRow(
            title=title_of(name),
            cells=[EngineCell(_number(own, name)) for own in measured],
        )
        for name in ("image_gain", "blank_gain")
    ]


def _speed(
    columns: Sequence[Column], summaries: Sequence[Mapping[str, Any]], split: str
) -> list[EngineRow]:
    latency = [summary.get("latency_s") for summary in summaries]
    rows = [
        ("request, median, seconds", [_number(own, "median") for own in latency]),
        ("request, 95th percentile, seconds", [_number(own, "p95") for own in latency]),
        ("first token, median, seconds", [_number(own, "first_token") for own in latency]),
        ("tokens a second", [_number(own, "tokens_per_second") for own in summaries]),
        ("peak memory, MiB", [_memory(column, split) for column in columns]),
    ]
    return [EngineRow(title, [EngineCell(value) for value in values]) for title, values in rows]


def _memory(column: Column, split: str) -> float | None:
    """Of the process that asked: where the model is in another, that says nothing."""
    if column.file.system.engine_type in SERVERS:
        return None
    return _number(column.file.noted(split), "peak_memory_mib")


def _counts(columns: Sequence[Column]) -> list[EngineRow]:
    counted: list[tuple[str, list[float]]] = [
        ("answered", [len(column.held.answered) for column in columns]),
        ("failed", [column.held.failed for column in columns]),
        ("cut at the limit", [column.held.cut for column in columns]),
        ("answered, but not measured", [column.held.unmeasured for column in columns]),
    ]
    return [
        EngineRow(title, [EngineCell(value) for value in values], unit="count")
        for title, values in counted
    ]


def _says(row: EngineRow) -> bool:
    return any(cell.value is not None for cell in row.cells)


def _number(found: Any, name: str) -> float | None:
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
