"""Stage 5: GGUF files for llama.cpp and Ollama, each held against the model that was trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract, read_contract
from vlmpipe.export.gguf_files import FOLDER, Converter, GgufNames
from vlmpipe.export.gguf_set import (
    GgufSet,
    make_files,
    ollama_name,
    served_files,
    write_descriptions,
)
from vlmpipe.export.modelfile import ollama_settings
from vlmpipe.export.ollama import OllamaResult, register
from vlmpipe.export.parity import records
from vlmpipe.export.parity.choice import Recommendation, recommend
from vlmpipe.export.parity.climb import Climbed, MergedModel, climb_files
from vlmpipe.export.parity.control import CONTROL
from vlmpipe.export.parity.gguf_rungs import Opener, judge, opener
from vlmpipe.export.parity.ladder import Ladder, read_rungs
from vlmpipe.export.parity.probes import ProbeSet, read_probes
from vlmpipe.export.parity.references import Trained
from vlmpipe.export.quant_bench import (
    QuantRow,
    bench_row,
    candidates,
    lines_of,
    metrics_of,
    table_of,
)
from vlmpipe.export.quants import known_quants
from vlmpipe.models.base import read_base
from vlmpipe.pipeline import Outcome, Stage, StageContext
from vlmpipe.pipeline.files import write_json
from vlmpipe.system.llama_cpp import LlamaCppSources, llama_cpp_sources
from vlmpipe.tasks import task_of


@dataclass(frozen=True)
class Work:
    """What the steps of this stage share."""

    context: StageContext
    config: Config
    sources: LlamaCppSources
    merged: MergedModel
    probes: ProbeSet
    scratch: Path

    @property
    def contract(self) -> PreprocessContract:
        """What every engine must do to its input."""
        return self.merged.trained.contract

    @property
    def primary(self) -> str:
        """The task metric's name."""
        return task_of(self.probes.samples[0].task).primary_metric


def run(context: StageContext) -> Outcome:
    """Convert, quantise, climb the ladder, choose, describe, register with Ollama."""
    config: Config = context.config
    types = known_quants(config.convert.quants)
    with TemporaryDirectory(prefix="scratch-", dir=context.folder) as scratch:
        work = prepared(context, config, Path(scratch))
        made = convert(work, types)
        climbed = climb(work, made)
        rows = bench(work, made, climbed)
    best = choose(work, climbed, rows)
    describe(work, made, climbed, rows, best)
    registration = offer_to_ollama(work, made, best.quant)
    return conclude(work, climbed, rows, best, registration)


def prepared(context: StageContext, config: Config, scratch: Path) -> Work:
    """The merged model, the model as it was trained, the probe set, llama.cpp's sources."""
    upstream = context.upstream
    contract = read_contract(upstream["merge"])
    trained = Trained(config, read_base(upstream["setup"]), upstream["train"], contract)
    return Work(
        context=context,
        config=config,
        sources=llama_cpp_sources(config.convert.llama_cpp_dir, context.reporter),
        merged=MergedModel(upstream["merge"], trained),
        probes=read_probes(upstream["merge"], upstream["setup"] / "data"),
        scratch=scratch,
    )


def convert(work: Work, types: dict[str, int]) -> GgufSet:
    """Every file that was asked for."""
    folder = work.context.folder / FOLDER
    folder.mkdir()
    return make_files(
        converter_of(work, work.merged.folder / "model", GgufNames(folder, work.config.run.name)),
        types,
        vision=work.contract.has_vision,
        reporter=work.context.reporter,
    )


def climb(work: Work, made: GgufSet) -> Climbed:
    """Every file held against the merged model and the adapter."""
    return climb_files(
        work.merged,
        list(made.files),
        opener(made.paths, made.mmproj, work.contract),
        make_control(work, made.base_type),
        work.probes,
        work.scratch,
        work.context.reporter,
    )


def make_control(work: Work, base_type: str) -> Callable[[Path], Opener]:
    """The base model's own conversion, made only where a fault has to be found."""

    def make(folder: Path) -> Opener:
        names = GgufNames(folder, CONTROL)
        made = make_files(
            converter_of(work, work.merged.trained.base.folder, names),
            {base_type: 0},
            vision=work.contract.has_vision,
            reporter=work.context.reporter,
        )
        return opener({CONTROL: made.paths[made.base_type]}, made.mmproj, work.contract)

    return make


def converter_of(work: Work, model: Path, names: GgufNames) -> Converter:
    """llama.cpp's converter over a model folder."""
    family = work.merged.trained.base.family
    return Converter(work.sources, model, family, names, work.context.log_path)


def bench(work: Work, made: GgufSet, climbed: Climbed) -> list[QuantRow]:
    """The quant bench, with the memory that each file takes."""
    sample = work.probes.samples[0]
    return [
        bench_row(rung, made.files[rung.quant], made.mmproj, work.contract, sample, work.scratch)
        for rung in climbed.files
    ]


def choose(work: Work, climbed: Climbed, rows: Sequence[QuantRow]) -> Recommendation:
    """The file that deploy takes unless told otherwise."""
    return recommend(candidates(rows), merged_metric(climbed), work.config.convert.max_metric_loss)


def merged_metric(climbed: Climbed) -> float:
    """What the files may lose from."""
    return climbed.merged.answers.metric if climbed.merged.answers else 0.0


def describe(
    work: Work,
    made: GgufSet,
    climbed: Climbed,
    rows: Sequence[QuantRow],
    best: Recommendation,
) -> None:
    """parity.json, quant_table.json, artifacts.json, the contract, the Modelfile."""
    folder = work.context.folder
    Ladder(
        probe=work.probes.record(work.contract.grid),
        rungs=[*read_rungs(work.merged.folder), *climbed.records],
        recommended=best.quant,
        why=best.why,
        diagnosis=climbed.diagnosis,
    ).write(folder)
    table = table_of(rows, merged_metric(climbed), work.primary, made.mmproj)
    write_json(folder / "quant_table.json", table)
    write_descriptions(folder, made, rows, best.quant, work.contract)


def offer_to_ollama(work: Work, made: GgufSet, quant: str) -> OllamaResult:
    """Register the recommended file where a server answers; the stage stands either way."""
    rules = work.config.convert
    return register(
        rules.ollama_url,
        ollama_name(rules, work.config.run.name),
        served_files(made, quant),
        ollama_settings(work.contract),
        work.contract,
        work.probes.samples[0].prompt,
        modelfile=work.context.folder.parent / "latest" / "Modelfile",
    )


def conclude(
    work: Work,
    climbed: Climbed,
    rows: Sequence[QuantRow],
    best: Recommendation,
    registration: OllamaResult,
) -> Outcome:
    """The verdict, the numbers, the lines for a person."""
    found = climbed.diagnosis
    fault = [f"first departs: {found['part']}: {found['found']}"] if found else []
    blamed = [f"at fault: the {found['at_fault']}"] if found else []
    return Outcome(
        metrics={**metrics_of(rows), **records.metrics_of(climbed.records)},
        verdict=judge(climbed.files, climbed.diagnosis),
        summary=(
            *(record.line for record in climbed.records),
            *fault,
            *blamed,
            *lines_of(rows, work.primary),
            f"recommended: {best.quant}, {best.why}",
            registration.detail,
        ),
        facts={"llama_cpp_commit": work.sources.commit, "ollama": registration.as_record()},
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
        "parity",
        "run.name",
        "model.dtype",
        "model.attn_implementation",
    ),
    ignores=("convert.ollama_url", "convert.ollama_name"),
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
