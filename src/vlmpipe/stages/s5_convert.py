"""Stage 5: GGUF files for llama.cpp and Ollama, each loaded and asked before it is handed on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from pathlib import Path

from vlmpipe.config import Config
from vlmpipe.data.store import load_split
from vlmpipe.encoding.contract import PreprocessContract, read_contract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.export.gguf_files import FOLDER, Converter, GgufNames
from vlmpipe.export.gguf_set import (
    GgufSet,
    judge_set,
    make_files,
    ollama_name,
    served_files,
    try_files,
    write_descriptions,
)
from vlmpipe.export.merged_model import ask_merged
from vlmpipe.export.modelfile import ollama_settings
from vlmpipe.export.ollama import OllamaResult, register
from vlmpipe.export.quants import known_quants
from vlmpipe.export.trial import lines_of, metrics_of
from vlmpipe.models.families import family_of
from vlmpipe.pipeline import Outcome, Stage, StageContext
from vlmpipe.system.llama_cpp import llama_cpp_sources


def run(context: StageContext) -> Outcome:
    """Convert, quantise, try every file, describe the set, register it with Ollama."""
    config: Config = context.config
    types = known_quants(config.convert.quants)
    merged = context.upstream["merge"]
    model, contract = merged / "model", read_contract(merged)
    sources = llama_cpp_sources(config.convert.llama_cpp_dir, context.reporter)
    (context.folder / FOLDER).mkdir()
    names = GgufNames(context.folder / FOLDER, config.run.name)
    converter = Converter(sources, model, family_of(model), names, context.log_path)
    made = make_files(converter, types, vision=contract.has_vision, reporter=context.reporter)
    samples = asked_samples(context.upstream["setup"] / "data", config.convert.probes)
    probes = ask_merged(config, model, contract, samples)
    rows = try_files(
        made,
        contract,
        samples,
        probes,
        rules=config.convert,
        reporter=context.reporter,
    )
    best = write_descriptions(context.folder, made, rows, probes, contract)
    registration = offer_to_ollama(context, made, best, contract, samples)
    return Outcome(
        metrics=metrics_of(rows),
        verdict=judge_set(rows),
        summary=(*lines_of(rows), f"recommended: {best}", registration.detail),
        facts={"llama_cpp_commit": sources.commit, "ollama": registration.as_record()},
    )


def asked_samples(data: Path, count: int) -> list[Sample]:
    """Held-out samples, filled up with training ones where there are too few."""
    heldout, train = load_split(data, "heldout"), load_split(data, "train")
    return list(islice(chain(heldout, train), count))


def offer_to_ollama(
    context: StageContext,
    made: GgufSet,
    quant: str,
    contract: PreprocessContract,
    samples: Sequence[Sample],
) -> OllamaResult:
    """Register the recommended file where a server answers; the stage stands either way."""
    config: Config = context.config
    return register(
        config.convert.ollama_url,
        ollama_name(config.convert, config.run.name),
        served_files(made, quant),
        ollama_settings(contract),
        contract,
        samples[0].prompt,
        modelfile=context.folder.parent / "latest" / "Modelfile",
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
    version=1,
    run=run,
    reads=("convert", "run.name", "model.attn_implementation"),
    ignores=("convert.ollama_url", "convert.ollama_name"),
    consumes={
        "setup": ("data/*.parquet",),
        "merge": ("model/*", "preprocess_contract.json"),
    },
    gated_by=("merge",),
    tools=pinned_tools,
)
