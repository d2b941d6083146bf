"""Stage 1: the base model resolved and tried, the data prepared, the llama.cpp sources at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from vlmpipe.config import Config
from vlmpipe.data.general import general_config
from vlmpipe.data.prepare import DataSummary, prepare_data
from vlmpipe.data.sources import referenced_files, refuse_unreadable
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.images import upright_size
from vlmpipe.engines.hf import HfEngine
from vlmpipe.evaluation.validation.general_probe import refuse_missing_probe
from vlmpipe.models.base import BaseModelFolder, model_files, resolve_base
from vlmpipe.models.loading import load_model, load_tokenizer, resolve_dtype
from vlmpipe.pipeline import Outcome, Stage, StageContext
from vlmpipe.system.llama_cpp import llama_cpp_sources
from vlmpipe.training.limits import limits_contract

TRIAL_TOKENS = 8
TRIAL_PROMPT = "Say hello."


def run(context: StageContext) -> Outcome:
    """Resolve the model, answer one prompt with it, prepare the data, fetch the sources."""
    config: Config = context.config
    # Before a model is downloaded, or trained for hours.
    refuse_unreadable(config.data.sources)
    if config.data.general_ratio:
        refuse_unreadable(config.data.general_sources, "data.general_sources")
    elif config.data.general_sources:
        context.reporter.note(
            "data.general_sources has no effect: data.general_ratio=0 mixes no general samples in;"
            " 0.1 to 0.2 keeps most of what the base could"
        )
    refuse_missing_probe(config)
    base = resolve_base(config.model, context.folder)
    context.reporter.note(
        f"base model: {base.id} ({base.family.title}, {base.parameters:,} parameters,"
        f" revision {base.revision})"
    )
    encoder = Encoder(load_tokenizer(base.folder), limits_contract(config, base.family, 0))
    seconds = answer_once(config, base, encoder)
    summary = prepare_data(
        config,
        context.folder / "data",
        context.reporter,
        check_sample=length_check(config, encoder),
        wants_images=base.family.has_vision,
    )
    sources = llama_cpp_sources(config.convert.llama_cpp_dir, context.reporter)
    return Outcome(
        metrics={
            "data/train_samples": float(summary.train.samples),
            "data/heldout_samples": float(summary.heldout.samples),
            "data/general_samples": float(summary.general.samples if summary.general else 0),
            "data/skipped_samples": float(summary.skipped),
            "model/parameters": float(base.parameters),
            "model/first_answer_seconds": seconds,
        },
        summary=(
            f"{base.id}: {base.family.title}, {base.parameters:,} parameters",
            samples_line(summary),
        ),
        facts={"llama_cpp": sources.version, "llama_cpp_commit": sources.commit},
    )


def samples_line(summary: DataSummary) -> str:
    """How many samples there are of what."""
    general = summary.general
    parts = [f"{summary.train.samples} training and {summary.heldout.samples} held-out samples"]
    if general is not None:
        parts.append(f"{general.samples} general ones mixed in ({general.share:.1%})")
    if summary.skipped:
        parts.append(f"{summary.skipped} skipped")
    return ", ".join(parts)


def answer_once(config: Config, base: BaseModelFolder, encoder: Encoder) -> float:
    """Seconds that the base model takes to load-test itself on one short prompt."""
    model = load_model(
        base.folder,
        dtype=resolve_dtype(config.model.dtype),
        attn_implementation=config.model.attn_implementation,
    )
    engine = HfEngine(model, encoder, "hf:base")
    answer = engine.complete([Message("user", (TRIAL_PROMPT,))], max_new_tokens=TRIAL_TOKENS)
    engine.close()
    return answer.seconds


def length_check(config: Config, encoder: Encoder) -> Callable[[Sample], str | None]:
    """A check that says how many tokens a sample has when it has too many."""
    limit = config.train.max_length

    def too_long(sample: Sample) -> str | None:
        tokens = encoder.token_count(sample.messages)
        if tokens <= limit:
            return None
        seen = sum(encoder.contract.grid.tokens(*upright_size(each)) for each in sample.images)
        helps = seen and tokens - seen < limit
        smaller = ", or make images smaller: model.max_pixels" if helps else ""
        return (
            f"takes {tokens} tokens ({tokens - seen} of text, {seen} of images), more than"
            f" train.max_length={limit} (raise it: train.max_length={tokens}{smaller}; nothing is"
            " ever cut)"
        )

    return too_long


def external_files(config: Config) -> Mapping[str, Path]:
    """Sample files, their images, and a local model's files; with general data also the general
    probe's file, which that keeps apart from.
    """
    files = dict(referenced_files(config))
    if config.data.general_ratio:
        files |= {
            name.replace("data.sources[0]", "validate.general.path", 1): path
            for name, path in referenced_files(general_config(config)).items()
        }
    folder = Path(config.model.id).expanduser()
    if folder.is_dir():
        files |= {f"model.id {path.name}": path for path in model_files(folder)}
    return files


SETUP = Stage(
    name="setup",
    number=1,
    version=2,
    run=run,
    reads=(
        "model",
        "data",
        "run.seed",
        "train.max_length",
        "train.curriculum",
        "convert.llama_cpp_dir",
        "validate.general",
    ),
    ignores=("model.attn_implementation",),
    external=external_files,
)
