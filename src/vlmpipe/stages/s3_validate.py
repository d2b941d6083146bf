"""Stage 3: base against tuned, on training probes and on held-out samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from vlmpipe.config import Config
from vlmpipe.config.validate import ValidateConfig
from vlmpipe.data.store import load_split
from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.base import Engine
from vlmpipe.evaluation.comparison import HELDOUT, TRAIN, compare
from vlmpipe.evaluation.memory import peak_memory_mib, reset_peak_memory
from vlmpipe.evaluation.results import finite, write_results
from vlmpipe.evaluation.subjects import open_subjects
from vlmpipe.evaluation.verdicts import judge, summary_of
from vlmpipe.models.base import read_base
from vlmpipe.pipeline import Outcome, Stage, StageContext, Verdict
from vlmpipe.tasks import task_of


def run(context: StageContext) -> Outcome:
    """Load the base and what was trained on it, then compare."""
    setup, train = context.upstream["setup"], context.upstream["train"]
    config: Config = context.config
    splits = asked_samples(config, setup / "data")
    reset_peak_memory()
    with open_subjects(config, read_base(setup), train) as engines:
        return validate(context, engines, splits)


def validate(
    context: StageContext, engines: Mapping[str, Engine], splits: Mapping[str, Sequence[Sample]]
) -> Outcome:
    """Ask both engines, measure, judge, write down."""
    rules: ValidateConfig = context.config.validation
    comparison = compare(
        engines,
        splits,
        task_of,
        max_new_tokens=rules.max_new_tokens,
        progress=context.reporter.progress,
    )
    context.reporter.progress_done()
    judgement = judge(comparison, rules)
    write_results(context.folder, comparison, judgement, splits)
    return Outcome(
        metrics={**finite(comparison.metrics), "memory/peak_mib": peak_memory_mib()},
        verdict=Verdict(judgement.passed, judgement.reasons),
        summary=summary_of(comparison, judgement),
    )


def asked_samples(config: Config, data: Path) -> dict[str, list[Sample]]:
    """The training probes and the held-out samples that are asked; either may be empty."""
    rules = config.validation
    return {
        TRAIN: list(islice(load_split(data, TRAIN), rules.train_probes)),
        HELDOUT: list(islice(load_split(data, HELDOUT), rules.heldout_samples)),
    }


VALIDATE = Stage(
    name="validate",
    number=3,
    version=1,
    run=run,
    reads=(
        "validate",
        "model.dtype",
        "model.attn_implementation",
        "train.method",
        "train.quantization",
    ),
    consumes={
        "setup": ("model.json", "model/*", "data/*.parquet"),
        "train": ("adapter/*", "model/*", "preprocess_contract.json"),
    },
)
