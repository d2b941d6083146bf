"""Where judgements of a run lie, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmpipe.evaluation.judging.summary import JudgeSummary
from vlmpipe.evaluation.published import rows_of
from vlmpipe.evaluation.records import file_name
from vlmpipe.pipeline.files import write_text

CACHE = "cache"


def pair_stem(first: str, second: str) -> str:
    """Name of the files of two engines, without what follows the dot."""
    return f"{_plain(first)}_vs_{_plain(second)}"


def point_stem(engine: str) -> str:
    """Name of the files of one engine."""
    return _plain(engine)


def write_judgement(
    folder: Path, stem: str, summary: JudgeSummary, rows: Iterable[Mapping[str, Any]]
) -> None:
    """`<stem>.jsonl` with a verdict a line, then `<stem>.json` with the figures."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_text(folder / f"{stem}.jsonl", "".join(f"{line}\n" for line in lines))
    write_text(folder / f"{stem}.json", summary.model_dump_json(indent=2) + "\n")


def read_verdicts(folder: Path, stem: str) -> Iterator[dict[str, Any]]:
    """Verdicts that were written; none where there is no file, broken lines left out."""
    return rows_of(folder / f"{stem}.jsonl")


def _plain(engine: str) -> str:
    return file_name(engine).removesuffix(".jsonl")
