"""The quant bench: size, divergence, task metric, speed and memory of every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.export.gguf.files import GgufFile
from vlmpipe.export.parity.choice import Candidate
from vlmpipe.export.parity.gguf_rungs import GgufRung
from vlmpipe.export.parity.records import rounded
from vlmpipe.export.parity.speed import memory_mib


@dataclass(frozen=True)
class QuantRow:
    """One line of the quant bench."""

    quant: str
    file: str
    size_bytes: int
    """The language model's file; the mmproj is the same for all."""

    tensor_types: Mapping[str, int]
    kld_mean: float | None
    """From the rung above, nats a token; None where the two cannot be compared."""

    kld_adapter: float | None
    """From the adapter as it was trained."""

    metric: float
    """Mean primary task metric on the probes."""

    loss: float
    """Mean target loss of the probes, nats a token."""

    prompt_tokens_per_second: float
    answer_tokens_per_second: float
    memory_mib: float | None
    """Peak resident memory of a process that loads the file and answers one probe."""

    excluded: str | None = None
    """Why the file must not be served."""


def bench_row(
    rung: GgufRung,
    file: GgufFile,
    mmproj: Path | None,
    contract: PreprocessContract,
    sample: Sample,
    scratch: Path,
) -> QuantRow:
    """What the ladder found of a file, its size, and the memory that it takes."""
    return QuantRow(
        quant=rung.quant,
        file=file.path.name,
        size_bytes=file.path.stat().st_size,
        tensor_types=dict(file.header.types),
        kld_mean=rung.above.kld_mean,
        kld_adapter=rung.adapter.kld_mean,
        metric=rung.rung.answers.metric if rung.rung.answers else 0.0,
        loss=rung.rung.distributions.loss,
        prompt_tokens_per_second=rung.prompt_tokens_per_second,
        answer_tokens_per_second=rung.answer_tokens_per_second,
        memory_mib=memory_mib(file.path, mmproj, contract, sample, scratch),
        excluded=rung.above.why,
    )


def candidates(rows: Sequence[QuantRow]) -> list[Candidate]:
    """The files to choose from."""
    return [Candidate(row.quant, row.size_bytes, row.metric, row.excluded) for row in rows]


def table_of(
    rows: Sequence[QuantRow], merged_metric: float, primary: str, mmproj: Path | None
) -> dict[str, Any]:
    """quant_table.json: the rows, and what they are held against."""
    return {
        "metric": primary,
        "merged_metric": merged_metric,
        "mmproj": {"file": mmproj.name, "size_bytes": mmproj.stat().st_size} if mmproj else None,
        "rows": [{key: rounded(each) for key, each in asdict(row).items()} for row in rows],
    }


def metrics_of(rows: Sequence[QuantRow]) -> dict[str, float]:
    """The table as a flat map of numbers, `q8_0/size_bytes` and so on; known ones only."""
    names = (
        "size_bytes",
        "prompt_tokens_per_second",
        "answer_tokens_per_second",
        "memory_mib",
        "metric",
        "loss",
    )
    pairs = {f"{row.quant}/{name}": getattr(row, name) for row in rows for name in names}
    known = {key: float(value) for key, value in pairs.items() if value is not None}
    return {key: value for key, value in known.items() if isfinite(value)}


def lines_of(rows: Sequence[QuantRow], primary: str) -> list[str]:
    """One line a file, for the person who watches."""
    return [
        f"{row.quant}: {row.size_bytes / 2**20:.1f} MiB,"
        f" prompt {row.prompt_tokens_per_second:.0f} tokens/s,"
        f" answer {row.answer_tokens_per_second:.0f} tokens/s,"
        f" {primary} {row.metric:.3f}" + (f" — excluded: {row.excluded}" if row.excluded else "")
        for row in rows
    ]
