"""Every GGUF file loaded, asked, timed, and held against the merged model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.base import Engine
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.export.gguf_files import GgufFile
from vlmpipe.export.probes import ANSWER_TOKENS, Probe, ask, mean_loss
from vlmpipe.system.llama_cpp import built_with_cuda

SPEED_ROUNDS = 3
"""Timed answers of each file, after those that warm it up."""


@dataclass(frozen=True)
class QuantRow:
    """One line of the quant table."""

    quant: str
    file: str
    size_bytes: int
    """The language model's file; the mmproj is the same for all."""

    tensor_types: Mapping[str, int]
    prompt_tokens_per_second: float
    answer_tokens_per_second: float
    loss: float
    """Mean target loss of the probes, nats a token."""

    drift: float
    """Loss minus the merged model's."""

    same_answers: int
    """Probes answered word for word as the merged model answers them."""

    excluded: str | None = None
    """Why the file must not be served."""


def try_file(
    quant: str,
    file: GgufFile,
    mmproj: Path | None,
    contract: PreprocessContract,
    samples: Sequence[Sample],
    merged: Sequence[Probe],
    *,
    max_loss_drift: float,
) -> QuantRow:
    """Load one file, ask it every sample, and judge it against the merged model's probes."""
    engine = LlamaCppEngine(
        file.path,
        mmproj,
        contract,
        name=f"llama_cpp:{quant}",
        n_gpu_layers=-1 if built_with_cuda() else 0,
    )
    try:
        probes = ask(engine, samples)
        prompt_speed, answer_speed = measure_speed(engine, samples[0])
    finally:
        engine.close()
    loss, drift = mean_loss(probes), mean_loss(probes) - mean_loss(merged)
    return QuantRow(
        quant=quant,
        file=file.path.name,
        size_bytes=file.path.stat().st_size,
        tensor_types=dict(file.header.types),
        prompt_tokens_per_second=round(prompt_speed, 2),
        answer_tokens_per_second=round(answer_speed, 2),
        loss=round(loss, 6),
        drift=round(drift, 6),
        same_answers=_same_answers(probes, merged),
        excluded=why_excluded(drift, max_loss_drift),
    )


def measure_speed(engine: Engine, sample: Sample) -> tuple[float, float]:
    """Prompt and answer tokens a second of an engine that has answered before: medians of a few.

    The prompt's share is the time until the first token, image included; the answer's what follows
    it, 0 where no second token came.
    """
    done = [
        engine.complete(sample.prompt, max_new_tokens=ANSWER_TOKENS) for _ in range(SPEED_ROUNDS)
    ]
    prompts = [each.prompt_tokens / max(each.first_token_seconds, 1e-9) for each in done]
    return median(prompts), median(each.tokens_per_second for each in done)


def why_excluded(drift: float, limit: float) -> str | None:
    """The reason to exclude a file; None when its loss drifted no further than `limit`."""
    if abs(drift) <= limit:  # false for NaN too
        return None
    return f"loss drifted by {drift:+.3f} nats a token from the merged model, limit {limit:g}"


def recommended(rows: Sequence[QuantRow]) -> str:
    """The smallest file that is not excluded; where all are, the first (16-bit) one."""
    usable = [row for row in rows if row.excluded is None]
    return min(usable, key=lambda row: row.size_bytes).quant if usable else rows[0].quant


def table_of(
    rows: Sequence[QuantRow], merged: Sequence[Probe], mmproj: Path | None
) -> dict[str, Any]:
    """quant_table.json: the rows, and what they are held against."""
    return {
        "probes": [probe.sample for probe in merged],
        "merged_loss": round(mean_loss(merged), 6),
        "mmproj": {"file": mmproj.name, "size_bytes": mmproj.stat().st_size} if mmproj else None,
        "rows": [asdict(row) for row in rows],
    }


def metrics_of(rows: Sequence[QuantRow]) -> dict[str, float]:
    """The table as a flat map of numbers, `q8_0/drift` and so on; numbers only where finite."""
    names = ("size_bytes", "prompt_tokens_per_second", "answer_tokens_per_second", "loss", "drift")
    pairs = {f"{row.quant}/{name}": float(getattr(row, name)) for row in rows for name in names}
    return {key: value for key, value in pairs.items() if value == value}


def lines_of(rows: Sequence[QuantRow]) -> list[str]:
    """One line a file, for the person who watches."""
    return [
        f"{row.quant}: {row.size_bytes / 2**20:.1f} MiB,"
        f" prompt {row.prompt_tokens_per_second:.0f} tokens/s,"
        f" answer {row.answer_tokens_per_second:.0f} tokens/s,"
        f" loss {row.loss:.4f} ({row.drift:+.4f})"
        + (f" — excluded: {row.excluded}" if row.excluded else "")
        for row in rows
    ]


def _same_answers(probes: Sequence[Probe], merged: Sequence[Probe]) -> int:
    pairs = zip(probes, merged, strict=True)
    return sum(ours.completion.text == theirs.completion.text for ours, theirs in pairs)
