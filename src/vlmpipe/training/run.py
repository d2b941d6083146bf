"""The train stage's work: load, prove, train, hand on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.conversation import Sample
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.loading import load_model, resolve_dtype
from vlmpipe.pipeline import Outcome, StageContext, Verdict
from vlmpipe.pipeline.files import write_json
from vlmpipe.training.adapter import count_trained, make_trainable
from vlmpipe.training.announcing import announce
from vlmpipe.training.audits.census import (
    Census,
    lora_layers,
    refuse_misquantized,
    take_census,
)
from vlmpipe.training.audits.image_tokens import audit_image_tokens, audit_tower
from vlmpipe.training.audits.masks import MaskAudit, audit_masks
from vlmpipe.training.batching.packed_attention import packing_for
from vlmpipe.training.checkpoints import checkpoint_step, newest_checkpoint
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.distributed.assembly import together
from vlmpipe.training.distributed.processes import Processes, current_processes
from vlmpipe.training.distributed.sharding import shard_model
from vlmpipe.training.distributed.soundness import refuse_unsound
from vlmpipe.training.handing_on import WORK_NAME, drop_phases, hand_on, is_finished
from vlmpipe.training.phase_fingerprints import evaluated_on, phase_fingerprints
from vlmpipe.training.phase_states import find_reusable, take_over
from vlmpipe.training.preparation import Preparation, TrainingData, prepare, repacked
from vlmpipe.training.session import TrainingSession, autocast_dtype
from vlmpipe.training.startup import prove, ready_model
from vlmpipe.training.vision_cache.cache import open_vision_cache
from vlmpipe.training.watch.rows import read_rows
from vlmpipe.training.watch.task_exam import refuse_without_heldout

__all__ = ["TrainingData", "load_trainable", "train"]

AUDITED_SAMPLES = 32


def train(context: StageContext, base: BaseModelFolder, data: TrainingData) -> Outcome:
    """Fine-tune the base on the data and write adapter, contract, metrics and audits.

    Where a launcher started several processes, all of them come here and train together.

    Raises:
        StageError: when a proof fails, a phase is empty, or the loss is no longer a number.
    """
    with together(context):
        return _train(context, base, data)


def _train(context: StageContext, base: BaseModelFolder, data: TrainingData) -> Outcome:
    config: Config = context.config
    processes = current_processes()
    spread = processes.world > 1 and processes.sharing.strategy == "fsdp2"
    if processes.world > 1:
        refuse_unsound(config.train, processes.sharing)
    refuse_without_heldout(config.train.watch.early_stopping, len(data.heldout))
    preparation = prepare(config, base, data, processes.world)
    dtype = resolve_dtype(config.model.dtype)
    # One device may not hold what is spread over several: it is proven on the CPU.
    model, census = load_trainable(config, base, dtype, device="cpu" if spread else None)
    packed, why = packing_for(config, model)
    preparation = repacked(preparation, packed, base, data)
    images = _audit_images(preparation, base, data, model)
    audits = _audit_masks(preparation, data)
    trained = [count_trained(model, base.family, each.unfreeze) for each in preparation.phases]
    announce(context, base, census, audits, preparation, why, trained)
    if processes.world > 1:
        context.reporter.note(_together_line(processes))
    open_cache = partial(
        open_vision_cache,
        config,
        model,
        preparation.encoder,
        data.train,
        autocast_dtype(dtype),
        context.reporter,
    )
    session = TrainingSession(
        model=model,
        config=config,
        family=base.family,
        dtype=dtype,
        preparation=preparation,
        samples=data.train,
        heldout=data.heldout,
        folder=context.folder,
        reporter=context.reporter,
        cache=None if spread else open_cache(),
    )
    if not is_finished(context.folder):
        _tell_going_on(session)
        _take_over_phases(context, session, base, data)
        ready_model(session)
        found = _audit_json(census, audits, preparation) | images | prove(session, census)
        if processes.is_first:
            write_json(context.folder / "audit.json", found)
        if spread:
            reshard = processes.sharing.reshard_after_forward
            shard_model(model, base.family, reshard_after_forward=reshard)
            session.cache = open_cache()
        session.run()
        hand_on(session, base)
    if processes.is_first:
        drop_phases(context.folder)
    return _outcome(session, census)


def _together_line(processes: Processes) -> str:
    held = {
        "ddp": "each holds the whole model",
        "fsdp2": "each holds a part of the model",
        "deepspeed": f"ZeRO stage {processes.sharing.zero_stage}",
    }[processes.sharing.strategy]
    return f"{processes.world} processes train together by {processes.sharing.strategy}: {held}"


def _tell_going_on(session: TrainingSession) -> None:
    """Say where an interrupted training is taken up: the phases' lines tell of all their steps."""
    done = max((_steps_done(session, phase) for phase in session.phases), default=0)
    if done and session.processes.is_first:
        session.reporter.note(
            f"goes on after step {done} of {session.phases[-1].last_step}; to begin anew instead:"
            " `vlmpipe run-all --force train` with the same options"
        )


def _steps_done(session: TrainingSession, phase: Phase) -> int:
    """Over all phases up to this one; 0 where nothing of it is done."""
    if session.is_finished(phase):
        return phase.last_step
    checkpoint = newest_checkpoint(session.phase_folder(phase))
    return phase.first_step + checkpoint_step(checkpoint) if checkpoint else 0


def _take_over_phases(
    context: StageContext, session: TrainingSession, base: BaseModelFolder, data: TrainingData
) -> None:
    """Begin after the phases that an earlier training of this run has done just so."""
    if data.digest is None or session.config.train.method == "full":
        return
    session.fingerprints = phase_fingerprints(
        session.config,
        session.preparation,
        base=base.digest,
        data=data.digest,
        dtype=session.dtype,
    )
    work = session.folder / WORK_NAME
    if session.processes.is_first and not context.forced and not work.exists():
        reusable = find_reusable(session.folder, session.fingerprints[:-1])
        for line in reusable.lines():
            session.reporter.note(line)
        contract = session.encoder.contract
        take_over(
            reusable, session.folder, work, session.phases, evaluated_on=evaluated_on(contract)
        )
    session.processes.barrier()


def load_trainable(
    config: Config, base: BaseModelFolder, dtype: str, device: str | None = None
) -> tuple[Any, Census]:
    """The model with its adapter, proven to be in the asked precision and open where asked.

    On the machine's best device, unless told another.
    """
    train_config = config.train
    model = load_model(
        base.folder,
        dtype="float32" if train_config.method == "full" else dtype,
        quantization=train_config.quantization if train_config.method == "qlora" else None,
        attn_implementation=config.model.attn_implementation,
        device=device,
    )
    quantized = refuse_misquantized(model, base.family, train_config)
    layers = lora_layers(model, base.family, train_config)
    model = make_trainable(model, base.family, train_config, config.run.seed)
    return model, take_census(model, base.family, train_config, layers, quantized)


def _audit_images(
    preparation: Preparation, base: BaseModelFolder, data: TrainingData, model: Any
) -> dict[str, Any]:
    """Image tokens of every sample at every size, and the tower's rows for one of them."""
    if not base.family.has_vision:
        return {}
    encoder, phases = preparation.encoder, preparation.phases
    grids = list(dict.fromkeys(phase.grid for phase in phases))
    tokens = audit_image_tokens(data.train, preparation.batching.lengths, encoder, grids)
    seen = next((sample for sample in _some(data.train, phases[0]) if sample.images), None)
    rows = audit_tower(model, seen, encoder, phases[0].grid) if seen else 0
    return {"image_tokens": {**tokens.as_json(), "tower_rows": rows}}


def _audit_masks(preparation: Preparation, data: TrainingData) -> list[MaskAudit]:
    scope = preparation.batching.config.train.loss.scope
    return [
        audit_masks(_some(data.train, phase), preparation.encoder, scope, phase.grid)
        for phase in preparation.phases
    ]


def _some(samples: Sequence[Sample], phase: Phase) -> list[Sample]:
    """Up to `AUDITED_SAMPLES` different samples, spread over the phase."""
    indices = list(dict.fromkeys(phase.indices))
    stride = max(1, math.ceil(len(indices) / AUDITED_SAMPLES))
    return [samples[index] for index in indices[::stride]]


def _audit_json(
    census: Census, audits: Sequence[MaskAudit], preparation: Preparation
) -> dict[str, Any]:
    return {
        "census": census.as_json(),
        "mask": audits[-1].as_json(),
        "lengths": preparation.length_audit.as_json(),
        "phases": [
            {
                "name": phase.name,
                "max_size": phase.grid.max_size,
                "samples": len(set(phase.indices)),
                "steps": phase.steps,
                "learning_rate": phase.learning_rate,
                "widened": phase.widened,
                "unfreeze": phase.unfreeze,
                "supervised_tokens": audit.supervised_tokens,
                "audited_samples": audit.audited,
                "batches": preparation.plan(phase).figures.as_json(),
            }
            for phase, audit in zip(preparation.phases, audits, strict=True)
        ],
    }


def _outcome(session: TrainingSession, census: Census) -> Outcome:
    rows = read_rows(session.metrics_path)
    losses = [float(row["loss"]) for row in rows if "loss" in row]
    speeds = [float(row["tokens_per_second"]) for row in rows if "tokens_per_second" in row]
    utilization = [float(row["mfu"]) for row in rows if "mfu" in row]
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
    if utilization:
        metrics["train/mfu"] = sorted(utilization)[len(utilization) // 2]
    evals = [row for row in rows if "eval_loss" in row]
    metrics |= {f"train/heldout_loss/{row['phase']}": float(row["eval_loss"]) for row in evals}
    world, sharing = session.processes.world, session.processes.sharing.strategy
    together = f" in {world} processes ({sharing})" if world > 1 else ""
    reasons = () if last < first else (f"loss did not fall: {first:.4f} to {last:.4f}",)
    return Outcome(
        metrics=metrics,
        verdict=Verdict(passed=not reasons, reasons=reasons),
        summary=(f"loss {first:.4f} -> {last:.4f} over {len(losses)} steps{together}",),
        facts={
            "compute_dtype": session.dtype,
            **({"processes": world, "sharing": sharing} if together else {}),
        },
    )
