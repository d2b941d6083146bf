"""Stage 3: base against tuned, on training probes, on held-out samples and elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmpipe.config import Config
from vlmpipe.config.validate import ValidateConfig
from vlmpipe.data.sources import referenced_files
from vlmpipe.data.store import load_split
from vlmpipe.encoding.conversation import Sample
from vlmpipe.evaluation.answers import Measure, finite, measured_here
from vlmpipe.evaluation.judging import JudgeSummary
from vlmpipe.evaluation.measuring import MetricPool
from vlmpipe.evaluation.memory import peak_memory_mib, reset_peak_memory
from vlmpipe.evaluation.records import System
from vlmpipe.evaluation.validation.comparison import HELDOUT, TRAIN, Comparison, compare
from vlmpipe.evaluation.validation.drawing import drawn_samples
from vlmpipe.evaluation.validation.forgetting import measure_forgetting
from vlmpipe.evaluation.validation.general_probe import general_config, general_probe
from vlmpipe.evaluation.validation.identity import identities
from vlmpipe.evaluation.validation.judged import (
    GivenSamples,
    ask_judge,
    judged_lines,
    refuse_unusable,
)
from vlmpipe.evaluation.validation.phases import compare_phases
from vlmpipe.evaluation.validation.results import write_results
from vlmpipe.evaluation.validation.subjects import Subjects, open_subjects
from vlmpipe.evaluation.validation.verdicts import Assessment, judge, summary_of
from vlmpipe.models.base import read_base
from vlmpipe.pipeline import Outcome, Stage, StageContext, Verdict


@dataclass(frozen=True)
class Asked:
    """Everything that the models are asked."""

    splits: Mapping[str, Sequence[Sample]]
    general: Sequence[Sample] = ()


def run(context: StageContext) -> Outcome:
    """Load the base and what was trained on it, then compare."""
    setup, train = context.upstream["setup"], context.upstream["train"]
    config: Config = context.config
    base = read_base(setup)
    trained = set(load_split(setup / "data", TRAIN).column("task"))
    general = general_probe(config, trained, has_vision=base.family.has_vision)
    asked = Asked(asked_samples(config, setup / "data"), general)
    if config.validation.judge is not None:
        refuse_unusable(config.validation.judge, trained)
    reset_peak_memory()
    with open_subjects(config, base, train) as subjects, MetricPool(workers=1) as pool:
        systems = identities(config, context.upstream, subjects.engines)
        return validate(context, subjects, systems, asked, pool.measure)


def validate(
    context: StageContext,
    subjects: Subjects,
    systems: Mapping[str, System],
    asked: Asked,
    measure: Measure = measured_here,
) -> Outcome:
    """Ask both engines, measure, judge, write down."""
    rules: ValidateConfig = context.config.validation
    progress = context.reporter.progress
    comparison = compare(
        subjects.engines, systems, asked.splits, measure=measure, progress=progress
    )
    forgetting = measure_forgetting(
        subjects.engines, asked.general, subjects.vocabulary, progress=progress
    )
    phases = compare_phases(
        comparison,
        asked.splits,
        subjects.phases,
        subjects.after,
        answered=rules.phase_samples,
        max_new_tokens=rules.max_new_tokens,
        measure=measure,
        progress=progress,
    )
    memory = {"memory/peak_mib": peak_memory_mib()}
    judged = judged_of(context, comparison, asked)
    context.reporter.progress_done()
    assessment = Assessment.of(comparison, forgetting, phases, memory)
    judgement = judge(assessment, rules)
    write_results(context.folder, assessment, judgement, asked.splits, judged)
    metrics = assessment.figures.metrics
    return Outcome(
        metrics=finite(metrics),
        verdict=Verdict(judgement.passed, judgement.reasons),
        summary=(*summary_of(assessment, judgement), *(judged_lines(judged) if judged else ())),
    )


def judged_of(context: StageContext, comparison: Comparison, asked: Asked) -> JudgeSummary | None:
    """What the judge says of the held-out answers, of the training probes where there are none."""
    config = context.config.validation.judge
    if config is None:
        return None
    split = HELDOUT if asked.splits.get(HELDOUT) else TRAIN
    source = GivenSamples(split, asked.splits[split])
    return ask_judge(config, comparison, source, context.run_folder, context.reporter.progress)


def asked_samples(config: Config, data: Path) -> dict[str, list[Sample]]:
    """The training probes and the held-out samples that are asked; either may be empty."""
    rules = config.validation
    train, heldout = load_split(data, TRAIN), load_split(data, HELDOUT)
    if not config.data.sources:
        # A generator's first samples are drawn as any others are; files may be sorted.
        return {TRAIN: train[: rules.train_probes], HELDOUT: heldout[: rules.heldout_samples]}
    return {
        TRAIN: drawn_samples(train, rules.train_probes),
        HELDOUT: drawn_samples(heldout, rules.heldout_samples),
    }


def external_files(config: Config) -> Mapping[str, Path]:
    """The general probe's file with its images, and the judge's rubrics."""
    general = referenced_files(general_config(config))
    found = {
        name.replace("data.sources[0]", "validate.general.path", 1): path
        for name, path in general.items()
    }
    judge_config = config.validation.judge
    rubric = judge_config.rubric if judge_config else None
    if rubric is not None:
        texts = sorted(rubric.glob("*.txt")) if rubric.is_dir() else [rubric]
        found |= {f"validate.judge.rubric {path.name}": path for path in texts}
    return found


VALIDATE = Stage(
    name="validate",
    number=3,
    version=3,
    run=run,
    reads=(
        "validate",
        "model.dtype",
        "model.attn_implementation",
        "train.method",
        "train.quantization",
    ),
    ignores=(
        "validate.judge.api_key_env",
        "validate.judge.concurrency",
        "validate.judge.max_retries",
        "validate.judge.timeout_s",
    ),
    consumes={
        "setup": ("model.json", "model/*", "data/*.parquet"),
        "train": ("adapter/*", "model/*", "phases/*", "preprocess_contract.json"),
    },
    external=external_files,
)
