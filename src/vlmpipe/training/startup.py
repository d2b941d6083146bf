"""What is proven, and tried once, before the first step of a training."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from vlmpipe.config.train import TrainConfig
from vlmpipe.encoding.encoder import IGNORED
from vlmpipe.models.families import Family
from vlmpipe.models.wrapping import unwrapped
from vlmpipe.training.adapter import open_parts
from vlmpipe.training.audits.batches import audit_batch
from vlmpipe.training.audits.census import Census, take_census
from vlmpipe.training.audits.gradient_flow import audit_gradient_flow
from vlmpipe.training.batching.packed_attention import install_packed_attention
from vlmpipe.training.batching.packing_proof import prove_packing
from vlmpipe.training.batching.rows import Row
from vlmpipe.training.curriculum import Phase, of_different_parts
from vlmpipe.training.dry_run.cases import PhaseCase
from vlmpipe.training.dry_run.run import dry_run
from vlmpipe.training.input_casts import without_input_casts
from vlmpipe.training.input_gradients import drop_input_gradients
from vlmpipe.training.loss.head_memory import measure_head_memory
from vlmpipe.training.loss.head_proof import prove_head
from vlmpipe.training.loss.supervised_head import install_supervised_head
from vlmpipe.training.phase_trainer import model_inputs, supervised_outputs
from vlmpipe.training.vision_cache.features import autocast

if TYPE_CHECKING:
    from vlmpipe.training.session import TrainingSession

PROVEN_SAMPLES = 3
"""The shortest of the first phase: a proof must take seconds."""


@dataclass(frozen=True)
class TrialStep:
    """Forward and backward as the trainer does them, without its loop."""

    model: Any
    family: Family
    config: TrainConfig
    autocast_dtype: Any
    device: Any

    def __call__(self, batch: Mapping[str, Any]) -> None:
        """Leave the gradients of one batch in the model."""
        with without_input_casts(self.model, autocast=self.autocast_dtype is not None):
            with autocast(self.device.type, self.autocast_dtype):
                outputs = self.forward(batch)
                loss = outputs.loss_sum / max(outputs.tokens, 1)
            loss.backward()

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """The summed loss of a collated batch."""
        return supervised_outputs(self.model, self.on_device(batch), self.family)

    def on_device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors where the model is."""
        return {
            key: value.to(self.device) if hasattr(value, "to") else value
            for key, value in batch.items()
        }


def ready_model(session: TrainingSession) -> None:
    """Put into the model what every forward pass of the training goes through."""
    if session.preparation.batching.packed:
        install_packed_attention(session.model)
    install_supervised_head(unwrapped(session.model))
    if session.config.train.gradient_checkpointing:
        session.model.gradient_checkpointing_enable({"use_reentrant": False})
        drop_input_gradients(session.model)


def prove(session: TrainingSession, census: Census) -> dict[str, Any]:
    """Run every proof, and a step on the worst batch of each phase that is still to be trained.

    Returns what was found, as plain values. The model is left as it was.

    Raises:
        StageError: when a proof fails, or a batch does not fit into memory.
    """
    phases = [phase for phase in session.phases if not session.is_finished(phase)]
    if not phases:
        return {}
    with session.tower_present(), _quick_collections():
        for phase in phases:
            _audit_largest(session, phase)
        found = {"gradient_flow": _audit_gradients(session, phases, census)}
        open_parts(session.model, session.family, phases[0].unfreeze)
        return {
            **found,
            "packing": _prove_packing(session, phases[0]),
            **_prove_loss(session, phases[0]),
            "dry_run": _dry_run(session, phases),
        }


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Measuring memory collects garbage again and again: leave out what was there before."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _audit_largest(session: TrainingSession, phase: Phase) -> None:
    plan = session.preparation.plan(phase)
    batch = session.collator(phase)(plan.batches[plan.largest])
    audit_batch(batch, session.encoder, f"phase {phase.name}")


def _audit_gradients(
    session: TrainingSession, phases: list[Phase], census: Census
) -> dict[str, Any]:
    """Look at every gradient, once for each set of parts that phases open."""
    config, flows = session.config.train, {}
    names = census.targets.names if census.targets else ()
    for phase in of_different_parts(phases):
        open_parts(session.model, session.family, phase.unfreeze)
        quantized, parts = census.quantized_linears, phase.unfreeze
        take_census(session.model, session.family, config, names, quantized, parts)
        batches = [session.collator(phase)(row) for row in _shortest(session, phase)]
        flow = audit_gradient_flow(session.model, batches, trial_step(session))
        flows[phase.name] = flow.as_json()
    return flows


def trial_step(session: TrainingSession) -> TrialStep:
    """A step as the session's trainers do it."""
    return TrialStep(
        session.model,
        session.family,
        session.config.train,
        session.autocast_dtype,
        session.device,
    )


def _prove_packing(session: TrainingSession, phase: Phase) -> dict[str, Any]:
    if not session.preparation.batching.packed:
        return {"packed": False}
    collator, step = session.collator(phase), trial_step(session)
    rows = [row for (row,) in _shortest(session, phase)]
    with autocast(step.device.type, step.autocast_dtype):
        proof = prove_packing(
            session.model,
            packed=collator.packed(rows),
            padded=collator.padded(rows),
            singles=[collator.padded([row]) for row in rows],
            logits=_logits(step),
        )
    return proof.as_json()


def _logits(step: TrialStep) -> Callable[[dict[str, Any], Any], Any]:
    def compute(inputs: dict[str, Any], rows: Any) -> Any:
        batch = model_inputs(step.on_device(inputs), step.family)
        kept = rows.to(step.device)
        return step.model(**batch, use_cache=False, logits_to_keep=kept).logits

    return compute


def _prove_loss(session: TrainingSession, phase: Phase) -> dict[str, Any]:
    """The head's loss on a real batch, and what it saves on the phase's largest one."""
    step, plan = trial_step(session), session.preparation.plan(phase)
    (row, *_), model = _shortest(session, phase), unwrapped(session.model)
    batch = model_inputs(step.on_device(session.collator(phase)(row)), session.family)
    proof = prove_head(model, batch, session.dtype)
    labels = session.collator(phase)(plan.batches[plan.largest])["labels"]
    supervised = int((labels[:, 1:] != IGNORED).sum())
    memory = measure_head_memory(model, labels.numel(), supervised, session.dtype)
    session.reporter.note(memory.told())
    return {"loss": proof.as_json(), "head_memory": memory.as_json()}


def _dry_run(session: TrainingSession, phases: list[Phase]) -> dict[str, Any]:
    """Not of a model that is about to be spread: where it is proven is not where it trains."""
    processes = session.processes
    if processes.world > 1 and processes.sharing.strategy == "fsdp2":
        return {}
    batching = session.preparation.batching
    cases = [
        PhaseCase(
            phase,
            session.preparation.plan(phase).batches,
            batching.rule,
            batching.lengths,
            session.collator(phase),
            trial_step(session),
            enter=partial(open_parts, session.model, session.family, phase.unfreeze),
        )
        for phase in phases
    ]
    found = dry_run(session.model, cases, session.config.train, session.device)
    for line in found.lines():
        session.reporter.note(line)
    return found.as_json()


def _shortest(session: TrainingSession, phase: Phase) -> list[tuple[Row]]:
    """Different samples, the first of them with an image where there is one: its positions differ
    from the text's.
    """
    lengths = session.preparation.batching.lengths
    by_length = sorted(set(phase.indices), key=lambda index: lengths.tokens(index, phase.grid))
    seeing = [index for index in by_length if lengths.image_tokens(index, phase.grid)][:1]
    chosen = dict.fromkeys([*seeing, *by_length])
    return [(Row(index),) for index in list(chosen)[:PROVEN_SAMPLES]]
