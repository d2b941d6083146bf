"""What a person is told before a training begins."""

from __future__ import annotations

from collections.abc import Sequence

from vlmpipe.models.base import BaseModelFolder
from vlmpipe.pipeline import StageContext
from vlmpipe.training.audits.census import Census
from vlmpipe.training.audits.masks import MaskAudit
from vlmpipe.training.batching.plan import BatchPlan
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.preparation import Preparation


def announce(
    context: StageContext,
    base: BaseModelFolder,
    census: Census,
    audits: Sequence[MaskAudit],
    preparation: Preparation,
    packing_reason: str,
) -> None:
    """Say what is trained, from what, and for how long; the log gets the supervised texts."""
    note = context.reporter.note
    share = census.trained_parameters / census.total_parameters
    note(
        f"{base.family.title}: {census.quantized_linears} layers in 4-bit, training"
        f" {census.trained_parameters:,} of {census.total_parameters:,} parameters ({share:.1%})"
    )
    _note_settings(context, preparation, packing_reason)
    for line in preparation.length_audit.lines():
        note(line)
    for phase in preparation.phases:
        note(_phase_line(phase, preparation.plan(phase), has_vision=base.family.has_vision))
    for audit in audits:
        for sample in audit.samples:
            context.log.info("supervised in %s: %s", sample.id, sample.supervised_spans)


def _note_settings(context: StageContext, preparation: Preparation, packing_reason: str) -> None:
    asked, phases, note = context.config.train, preparation.phases, context.reporter.note
    if not preparation.batching.packed and asked.packing == "auto":
        note(f"samples are not packed: {packing_reason}")
    if asked.augment.resize_kernels != ("bicubic",):
        kernels = ", ".join(asked.augment.resize_kernels)
        note(f"in training each image is resized by a kernel drawn from {kernels}")
    if asked.vision_cache != "off" and not preparation.encoder.contract.has_vision:
        note(f"train.vision_cache={asked.vision_cache} has no effect: this model sees no images")
    if "max_steps" in asked.model_fields_set and asked.max_steps != phases[-1].last_step:
        note(
            f"train.max_steps={asked.max_steps} has no effect: every phase has a length of its own,"
            f" {phases[-1].last_step} steps in all"
        )


def _phase_line(phase: Phase, plan: BatchPlan, *, has_vision: bool) -> str:
    size = phase.grid.max_size if has_vision else None
    box = f" in {size[0]}x{size[1]}" if size else ""
    widened = ", widened to the nearest difficulty" if phase.widened else ""
    opened = f", training {' and '.join(phase.unfreeze)} of the tower" if phase.unfreeze else ""
    figures = plan.figures
    padding = f", {figures.padding_share:.0%} padding" if figures.padding_share >= 0.005 else ""
    return (
        f"phase {phase.name}: {_count(len(phase.indices), 'sample')}{box},"
        f" {_count(phase.steps, 'step')} of {figures.samples / phase.steps:.1f} samples{padding},"
        f" learning rate {phase.learning_rate:g}{widened}{opened}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
