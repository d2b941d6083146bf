"""The train stage's work: load, prove, train, hand on."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.models.adapter_base import record_adapter_base
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.loading import load_model, load_tokenizer, resolve_dtype
from vlmpipe.models.quiet import quiet_transformers
from vlmpipe.pipeline import Outcome, StageContext, Verdict
from vlmpipe.pipeline.files import write_json
from vlmpipe.training.adapter import make_trainable, save_adapter
from vlmpipe.training.audits.census import Census, lora_layers, refuse_misquantized, take_census
from vlmpipe.training.audits.masks import MaskAudit, audit_masks
from vlmpipe.training.curriculum import Phase, plan_phases
from vlmpipe.training.limits import contract_for
from vlmpipe.training.phase_adapters import write_index
from vlmpipe.training.session import (
    METRICS_NAME,
    WORK_NAME,
    TrainingSession,
    checkpoint_step,
)
from vlmpipe.training.watch.callbacks import read_rows

AUDITED_SAMPLES = 32
EVALUATED_SAMPLES = 16


@dataclass(frozen=True)
class TrainingData:
    """What setup prepared; `weights` is parallel to `train`."""

    train: Sequence[Sample]
    heldout: Sequence[Sample]
    weights: Sequence[float]


def train(context: StageContext, base: BaseModelFolder, data: TrainingData) -> Outcome:
    """Fine-tune the base on the data and write adapter, contract, metrics and audits.

    Raises:
        StageError: when a proof fails, a phase is empty, or the loss is no longer a number.
    """
    config: Config = context.config
    contract = contract_for(config, base.family, base.folder, [*data.train, *data.heldout])
    encoder = Encoder(load_tokenizer(base.folder), contract)
    phases = plan_phases(
        config.train,
        [sample.difficulty for sample in data.train],
        data.weights,
        contract.grid,
        has_vision=base.family.has_vision,
    )
    audits = [
        audit_masks(_some(data.train, phase), encoder, config.train.loss.scope, phase.grid)
        for phase in phases
    ]
    dtype = resolve_dtype(config.model.dtype)
    model, census = load_trainable(config, base, dtype)
    _announce(context, base, census, audits, phases)
    write_json(context.folder / "audit.json", _audit_json(census, audits, phases))
    session = TrainingSession(
        model=model,
        config=config,
        dtype=dtype,
        phases=phases,
        samples=data.train,
        heldout=data.heldout[:EVALUATED_SAMPLES],
        encoder=encoder,
        folder=context.folder,
        reporter=context.reporter,
    )
    if not is_finished(context.folder):
        session.run()
        _hand_on(context.folder, model, base, encoder, config, contract)
        if len(phases) > 1 and config.train.method != "full":
            write_index(context.folder, phases)
        keep_chosen_checkpoints(session)
    drop_phases(context.folder)
    return _outcome(session, census, dtype)


def load_trainable(config: Config, base: BaseModelFolder, dtype: str) -> tuple[Any, Census]:
    """The model with its adapter, proven to be in the asked precision and open where asked."""
    train_config = config.train
    model = load_model(
        base.folder,
        dtype="float32" if train_config.method == "full" else dtype,
        quantization=train_config.quantization if train_config.method == "qlora" else None,
        attn_implementation=config.model.attn_implementation,
    )
    quantized = refuse_misquantized(model, base.family, train_config)
    layers = lora_layers(model, base.family, train_config)
    model = make_trainable(model, base.family, train_config, config.run.seed)
    return model, take_census(model, base.family, train_config, layers, quantized)


def is_finished(folder: Path) -> bool:
    """Whether all is written, and only the publication was missed."""
    return (folder / METRICS_NAME).exists() and not (folder / WORK_NAME).exists()


def keep_chosen_checkpoints(session: TrainingSession) -> None:
    """Keep the chosen steps' checkpoints, by their step over all phases."""
    kept = session.folder / "checkpoints"
    for phase in session.phases:
        for checkpoint in session.phase_folder(phase).glob("checkpoint-*"):
            step = phase.first_step + checkpoint_step(checkpoint)
            if step in session.config.train.checkpoint_steps:
                kept.mkdir(exist_ok=True)
                # An attempt that was killed right here may have left one.
                shutil.rmtree(kept / f"step-{step}", ignore_errors=True)
                checkpoint.rename(kept / f"step-{step}")


def drop_phases(folder: Path) -> None:
    """Remove what only a resume needs.

    In one step, seen from outside: with half of it gone, a resume would take up a later phase and
    train an earlier one after it.
    """
    aside = folder / f".{WORK_NAME}.dropped"
    if (folder / WORK_NAME).exists():
        (folder / WORK_NAME).rename(aside)
    if aside.exists():
        shutil.rmtree(aside)


def _some(samples: Sequence[Sample], phase: Phase) -> list[Sample]:
    """Up to `AUDITED_SAMPLES` different samples, spread over the phase."""
    indices = list(dict.fromkeys(phase.indices))
    stride = max(1, math.ceil(len(indices) / AUDITED_SAMPLES))
    return [samples[index] for index in indices[::stride]]


def _hand_on(
    folder: Path,
    model: Any,
    base: BaseModelFolder,
    encoder: Encoder,
    config: Config,
    contract: PreprocessContract,
) -> None:
    import torch

    contract.write(folder)
    if config.train.method == "full":
        with quiet_transformers():
            model.to(torch.bfloat16).save_pretrained(folder / "model")
        encoder.tokenizer.save_pretrained(folder / "model")
    else:
        save_adapter(model, base, folder / "adapter")
        quantization = config.train.quantization if config.train.method == "qlora" else None
        dtype = resolve_dtype(config.model.dtype)
        record_adapter_base(folder / "adapter", base, dtype=dtype, quantization=quantization)


def _announce(
    context: StageContext,
    base: BaseModelFolder,
    census: Census,
    audits: Sequence[MaskAudit],
    phases: Sequence[Phase],
) -> None:
    share = census.trained_parameters / census.total_parameters
    context.reporter.note(
        f"{base.family.title}: {census.quantized_linears} layers in 4-bit, training"
        f" {census.trained_parameters:,} of {census.total_parameters:,} parameters ({share:.1%})"
    )
    asked = context.config.train
    if asked.augment.resize_kernels != ("bicubic",):
        kernels = ", ".join(asked.augment.resize_kernels)
        context.reporter.note(f"in training each image is resized by a kernel drawn from {kernels}")
    if "max_steps" in asked.model_fields_set and asked.max_steps != phases[-1].last_step:
        context.reporter.note(
            f"train.max_steps={asked.max_steps} has no effect: every phase has a length of its own,"
            f" {phases[-1].last_step} steps in all"
        )
    for phase in phases:
        size = phase.grid.max_size if base.family.has_vision else None
        box = f" in {size[0]}x{size[1]}" if size else ""
        widened = ", widened to the nearest difficulty" if phase.widened else ""
        context.reporter.note(
            f"phase {phase.name}: {_count(len(phase.indices), 'sample')}{box},"
            f" {_count(phase.steps, 'step')},"
            f" learning rate {phase.learning_rate:g}{widened}"
        )
    for audit in audits:
        for sample in audit.samples:
            context.log.info("supervised in %s: %s", sample.id, sample.supervised_spans)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _audit_json(
    census: Census, audits: Sequence[MaskAudit], phases: Sequence[Phase]
) -> dict[str, Any]:
    return {
        "census": census.as_json(),
        "mask": audits[-1].as_json(),
        "phases": [
            {
                "name": phase.name,
                "max_size": phase.grid.max_size,
                "samples": len(set(phase.indices)),
                "steps": phase.steps,
                "learning_rate": phase.learning_rate,
                "widened": phase.widened,
                "supervised_tokens": audit.supervised_tokens,
                "audited_samples": audit.audited,
            }
            for phase, audit in zip(phases, audits, strict=True)
        ],
    }


def _outcome(session: TrainingSession, census: Census, dtype: str) -> Outcome:
    rows = read_rows(session.metrics_path)
    losses = [float(row["loss"]) for row in rows if "loss" in row]
    speeds = [float(row["tokens_per_second"]) for row in rows if "tokens_per_second" in row]
    window = max(1, len(losses) // 10)
    first, last = sum(losses[:window]) / window, sum(losses[-window:]) / window
    metrics = {
        "train/loss_first": first,
        "train/loss_last": last,
        "train/steps": float(len(losses)),
        "train/tokens": sum(float(row.get("tokens", 0)) for row in rows),
        "train/tokens_per_second": sorted(speeds)[len(speeds) // 2],
        "train/trained_parameters": float(census.trained_parameters),
    }
    evals = [row for row in rows if "eval_loss" in row]
    metrics |= {f"train/heldout_loss/{row['phase']}": float(row["eval_loss"]) for row in evals}
    reasons = () if last < first else (f"loss did not fall: {first:.4f} to {last:.4f}",)
    return Outcome(
        metrics=metrics,
        verdict=Verdict(passed=not reasons, reasons=reasons),
        summary=(f"loss {first:.4f} -> {last:.4f} over {len(losses)} steps",),
        facts={"compute_dtype": dtype},
    )
