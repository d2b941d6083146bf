"""What serving gained over the model that validate measured."""

from __future__ import annotations

from pathlib import Path

from vlmpipe.errors import ArtifactError
from vlmpipe.pipeline.manifest import read_manifest
from vlmpipe.serving.load import LoadResult

HF_SPEED = "speed/tokens_per_second/tuned"


def hf_speed(run_folder: Path) -> float | None:
    """Tokens a second of the tuned model in transformers, where validate measured it.

    Not an input of deploy: it changes nothing in the bundle, only a line that is told.
    """
    try:
        manifest = read_manifest(run_folder / "3_validate" / "latest")
    except ArtifactError:
        return None
    return manifest.metrics.get(HF_SPEED) if manifest else None


def speed_line(load: LoadResult | None, before: float | None) -> list[str]:
    """Speed and latency for a person who watches."""
    if load is None:
        return ["not measured: a smoke test failed"]
    line = (
        f"{load.tokens_per_second:.1f} tokens/s; latency p50 {load.latency_p50_s:.2f} s,"
        f" p95 {load.latency_p95_s:.2f} s over {load.requests} requests"
    )
    if not before:
        return [line, "gain over transformers: not measured (validate has no speed for it)"]
    gain = load.tokens_per_second / before
    return [
        line,
        f"{gain:.1f}x the tuned model in transformers as validate ran it, adapter unmerged"
        f" ({before:.1f} tokens/s)",
    ]
