"""What a phase of a curriculum leaves behind depends on, and on nothing that comes after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.pipeline.fingerprint import fingerprint_of
from vlmpipe.training.batching.plan import BatchPlan
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.preparation import Preparation

SCHEMA = 1
"""Goes up whenever the same settings come to train something else."""

RESOLVED = frozenset(
    {
        "curriculum",
        "max_steps",
        "on_empty_phase",
        "learning_rate",
        "unfreeze",
        "batch_size",
        "batch_tokens",
        "gradient_accumulation",
        "packing",
        "max_length",
    }
)
"""Settings of `train` whose outcome is in the phases and their batches."""

WITHOUT_EFFECT = frozenset(
    {
        "vision_cache",
        "vision_cache_folder",
        "gradient_checkpointing",
        "expandable_segments",
        "save_steps",
        "keep_phase_states",
        "checkpoint_steps",
        "report_to",
        "gate",
    }
)
"""Settings of `train` that change what a training takes or tells, not what it learns: activations
are recomputed, and features read back, bit for bit."""

CONTRACT_FIELDS = (
    "family",
    "patch_size",
    "merge_size",
    "temporal_patch_size",
    "image_mean",
    "image_std",
    "chat_template_sha256",
    "system_prompt",
)
"""What samples are encoded by, beside the phase's own image grid."""


def phase_fingerprints(
    config: Config, preparation: Preparation, *, base: str, data: str, dtype: str
) -> list[str]:
    """One sha256 for each phase, each over the one before: equal ones leave the same state.

    `base` and `data` are digests of the base model and of the prepared samples, `dtype` is what the
    run computes in. The number of processes does not count, as it does not in the plan: two with
    one micro-batch to a step do what one does with two.
    """
    state = fingerprint_of(_common(config, preparation, base, data, dtype))
    found = []
    for phase in preparation.phases:
        facts = phase_facts(phase, preparation.plan(phase))
        state = fingerprint_of({"before": state, "phase": facts})
        found.append(state)
    return found


def phase_facts(phase: Phase, plan: BatchPlan) -> dict[str, Any]:
    """What a phase itself decides, resolved."""
    batches = [[(row.sample, row.epoch, row.muted) for row in batch] for batch in plan.batches]
    return {
        "number": phase.number,
        "name": phase.name,
        "grid": _effective(phase.grid),
        "first_step": phase.first_step,
        "steps": plan.steps,
        "learning_rate": phase.learning_rate,
        "unfreeze": phase.unfreeze,
        "batches_to_a_step": plan.accumulation * plan.processes,
        "batches": fingerprint_of({"batches": batches}),
    }


def evaluated_on(contract: PreprocessContract) -> str:
    """Digest of what the held-out loss between phases is measured at: the grid that serving uses,
    which a later phase may change.
    """
    return fingerprint_of(_effective(contract.grid))


def _common(
    config: Config, preparation: Preparation, base: str, data: str, dtype: str
) -> dict[str, Any]:
    contract, phases = preparation.encoder.contract, preparation.phases
    return {
        "schema": SCHEMA,
        "base": base,
        "data": data,
        "seed": config.run.seed,
        "dtype": dtype,
        "attention": config.model.attn_implementation,
        "packed": preparation.batching.packed,
        "settings": _settings(config),
        "contract": contract.model_dump(mode="json", include=set(CONTRACT_FIELDS)),
        "early_stopping": _early_stopping(config, contract),
        # The optimiser holds every part that some phase trains, from the first phase on.
        "opened": _opened(phases),
    }


def _settings(config: Config) -> Mapping[str, Any]:
    settings = config.train.model_dump(mode="json", exclude={*RESOLVED, *WITHOUT_EFFECT, "watch"})
    if config.train.method != "qlora":
        del settings["quantization"]
    if config.train.method == "full":
        del settings["lora"]
    return settings


def _early_stopping(config: Config, contract: PreprocessContract) -> dict[str, Any] | None:
    """It looks at answers as they are served; None where it is off. The other watchmen only tell,
    or stop a training for good.
    """
    settings = config.train.watch.early_stopping
    if settings.patience is None:
        return None
    longest = config.validation.max_new_tokens
    return {
        **settings.model_dump(mode="json"),
        "grid": evaluated_on(contract),
        "max_new_tokens": longest,
    }


def _opened(phases: Sequence[Phase]) -> dict[str, Any]:
    first, last = phases[0].unfreeze, phases[-1].unfreeze
    return {"in_the_end": last, "at_once": first == last}


def _effective(grid: ImageGrid) -> dict[str, Any]:
    """The grid with the limit that binds: the model's own follows the largest phase unless set."""
    facts = asdict(grid)
    if grid.max_size is not None:
        rows, columns = (max(side // grid.factor, 1) * grid.factor for side in grid.max_size)
        facts["max_pixels"] = min(grid.max_pixels, rows * columns)
    return facts
