"""What a person is told before a training begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlmpipe.models.base import BaseModelFolder
from vlmpipe.pipeline import StageContext
from vlmpipe.training.audits.census import Census
from vlmpipe.training.audits.masks import MaskAudit
from vlmpipe.training.batching.plan import BatchPlan
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.ineffective import without_effect
from vlmpipe.training.preparation import Preparation


def announce(
    context: StageContext,
    base: BaseModelFolder,
    census: Census,
    audits: Sequence[MaskAudit],
    preparation: Preparation,
    packing_reason: str,
    trained: Sequence[int],
) -> None:
    """Say what is trained, from what, and for how long; the log gets the supervised texts.

    `trained` is how many parameters each phase trains.
    """
    note, phases = context.reporter.note, preparation.phases
    in_4_bit = f"{census.quantized_linears} layers in 4-bit, " if census.quantized_linears else ""
    note(f"{base.family.title}: {in_4_bit}training {_trained(census, phases, trained)}")
    _note_settings(context, preparation, packing_reason)
    for line in preparation.length_audit.lines():
        note(line)
    for phase in phases:
        note(_phase_line(phase, preparation.plan(phase), has_vision=base.family.has_vision))
        for line in _oversized_line(phase, preparation):
            note(line)
    for audit in audits:
        for sample in audit.samples:
            context.log.info("supervised in %s: %s", sample.id, sample.supervised_spans)


def _trained(census: Census, phases: Sequence[Phase], trained: Sequence[int]) -> str:
    """Per phase where phases train different parts of the model."""
    total = census.total_parameters
    if len(set(trained)) == 1:
        return f"{trained[0]:,} of {total:,} parameters ({trained[0] / total:.1%})"
    counts = [
        f"{count:,} in phase {phase.name} ({count / total:.1%})"
        for phase, count in zip(phases, trained, strict=True)
    ]
    return f"of {total:,} parameters {', '.join(counts)}"


def _note_settings(context: StageContext, preparation: Preparation, packing_reason: str) -> None:
    asked, note = context.config.train, context.reporter.note
    if not preparation.batching.packed and asked.packing == "auto":
        note(f"samples are not packed: {packing_reason}")
    if asked.augment.resize_kernels != ("bicubic",):
        kernels = ", ".join(asked.augment.resize_kernels)
        note(f"in training each image is resized by a kernel drawn from {kernels}")
    has_vision = preparation.encoder.contract.has_vision
    for line in without_effect(asked, preparation.phases, has_vision=has_vision):
        note(line)


def _oversized_line(phase: Phase, preparation: Preparation) -> Iterator[str]:
    """What `train.batch_tokens` does not hold, where there is such a sample."""
    budget = preparation.batching.config.train.batch_tokens
    if budget is None:
        return
    lengths = preparation.batching.lengths
    tokens = [lengths.tokens(index, phase.grid) for index in set(phase.indices)]
    longer = sum(count > budget for count in tokens)
    if longer:
        yield (
            f"phase {phase.name}: {longer} of {_count(len(tokens), 'sample')} are longer than"
            f" train.batch_tokens={budget} and go alone; the longest takes {max(tokens)}"
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
