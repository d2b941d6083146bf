"""Stage 5: GGUF files for llama.cpp and Ollama, each held against the model that was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlmpipe.export.gguf.conversion import Conversion, conversion_of
from vlmpipe.export.gguf.file_set import GgufSet, write_descriptions
from vlmpipe.export.gguf.quant_bench import (
    QuantRow,
    bench_row,
    candidates,
    lines_of,
    metrics_of,
    table_of,
)
from vlmpipe.export.ollama.offer import offer_to_ollama
from vlmpipe.export.ollama.registration import OllamaResult
from vlmpipe.export.parity import records
from vlmpipe.export.parity.choice import Recommendation, recommend
from vlmpipe.export.parity.climb import Climbed, climb_files
from vlmpipe.export.parity.gguf_rungs import judge, opener
from vlmpipe.export.parity.ladder import Ladder, read_rungs
from vlmpipe.export.vllm.rung import VllmRung, convert_for_vllm, refuse_missing_compressor
from vlmpipe.pipeline import Outcome, Stage, StageContext, Verdict
from vlmpipe.pipeline.files import write_json


@dataclass(frozen=True)
class Found:
    """What the ladder and the bench came to."""

    climbed: Climbed
    rows: Sequence[QuantRow]
    best: Recommendation
    vllm: VllmRung | None
    verdict: Verdict
    ollama: OllamaResult
    ollama_rung: dict[str, Any] | None


def run(context: StageContext) -> Outcome:
    """Convert, quantise, climb the ladder, choose, offer to Ollama, describe."""
    work = conversion_of(context)
    refuse_missing_compressor(work.config.convert)
    with TemporaryDirectory(prefix="scratch-", dir=context.folder) as scratch:
        made = work.run()
        found = hold_against_the_trained(work, made, Path(scratch))
    describe(work, made, found)
    return conclude(work, found)


def hold_against_the_trained(work: Conversion, made: GgufSet, scratch: Path) -> Found:
    """Climb the ladder with every file, and choose among those that hold."""
    climbed = climb_files(
        work.merged,
        list(made.files),
        opener(made.paths, made.mmproj, work.contract),
        work.control,
        work.probes,
        scratch,
        work.context.reporter,
    )
    rows = bench(work, made, climbed, scratch)
    best = recommend(candidates(rows), climbed.merged_metric, work.config.convert.max_metric_loss)
    vllm = convert_for_vllm(work, climbed.merged, scratch)
    verdict = judged(climbed, vllm)
    registered, rung = offer_to_ollama(work, made, best.quant, verdict)
    return Found(climbed, rows, best, vllm, verdict, registered, rung)


def judged(climbed: Climbed, vllm: VllmRung | None) -> Verdict:
    """The files' verdict, and that of the folder for vLLM where one was asked for."""
    files = judge(climbed.files, climbed.diagnosis)
    failed = [each for each in (vllm.records if vllm else ()) if not each.passed]
    reasons = [f"{each.rung}: {each.why}" for each in failed]
    return Verdict(files.passed and not reasons, (*files.reasons, *reasons))


def bench(work: Conversion, made: GgufSet, climbed: Climbed, scratch: Path) -> list[QuantRow]:
    """The quant bench, with the memory that each file takes."""
    sample = work.probes.samples[0]
    return [
        bench_row(rung, made.files[rung.quant], made.mmproj, work.contract, sample, scratch)
        for rung in climbed.files
    ]


def describe(work: Conversion, made: GgufSet, found: Found) -> None:
    """parity.json, quant_table.json, artifacts.json, the contract, the Modelfile."""
    folder, climbed = work.context.folder, found.climbed
    rungs = [*read_rungs(work.merged.folder), *climbed.records]
    Ladder(
        probe=work.probes.record(work.contract.grid),
        rungs=[*rungs, *(found.vllm.records if found.vllm else [])],
        compute=work.merged.trained.compute,
        recommended=found.best.quant,
        why=found.best.why,
        diagnosis=climbed.diagnosis,
        asked_elsewhere=[found.ollama_rung] if found.ollama_rung else [],
    ).write(folder)
    table = table_of(found.rows, climbed.merged_metric, work.primary, made.mmproj)
    write_json(folder / "quant_table.json", table)
    write_descriptions(folder, made, found.rows, found.best.quant, work.contract, work.imatrix_path)


def conclude(work: Conversion, found: Found) -> Outcome:
    """The verdict, the numbers, the lines for a person."""
    climbed, fault = found.climbed, found.climbed.diagnosis
    rungs = [*climbed.records, *(found.vllm.records if found.vllm else [])]
    lines = [record.line for record in rungs]
    if fault:
        lines += [f"first departs: {fault['part']}: {fault['found']}"]
        lines += [f"at fault: the {fault['at_fault']}"]
    return Outcome(
        metrics={**metrics_of(found.rows), **records.metrics_of(rungs)},
        verdict=found.verdict,
        summary=(
            *lines,
            *lines_of(found.rows, work.primary),
            *(found.vllm.lines if found.vllm else ()),
            f"recommended: {found.best.quant}, {found.best.why}",
            found.ollama.detail,
        ),
        facts={"llama_cpp_commit": work.sources.commit, "ollama": found.ollama.as_record()},
    )


def pinned_tools() -> dict[str, str]:
    """The release of llama.cpp that converts and quantises, told without importing it."""
    try:
        return {"llama-cpp-python": version("llama-cpp-python")}
    except PackageNotFoundError:
        return {}


CONVERT = Stage(
    name="convert",
    number=5,
    version=2,
    run=run,
    reads=(
        "convert",
        "parity.max_new_tokens",
        "parity.max_kld",
        "run.name",
        "model.dtype",
        "model.attn_implementation",
    ),
    ignores=(
        "convert.ollama_url",
        "convert.ollama_name",
        "convert.vllm_python",
        # Other stages' limits.
        "parity.max_kld.merged",
        "parity.max_kld.drift",
        "parity.max_kld.served",
    ),
    consumes={
        "setup": ("model.json", "model/*", "data/*.parquet"),
        "train": ("adapter/*", "model/*"),
        "merge": (
            "model/*",
            "preprocess_contract.json",
            "probes.json",
            "probe_answers.json",
            "parity.json",
        ),
    },
    gated_by=("merge",),
    tools=pinned_tools,
)
