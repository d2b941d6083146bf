"""Settings that were given and change nothing in this training: told, never dropped silently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlmpipe.config.train import TrainConfig
from vlmpipe.training.curriculum import Phase


def without_effect(
    config: TrainConfig, phases: Sequence[Phase], *, has_vision: bool
) -> Iterator[str]:
    """A line for each setting that has no effect, with the reason."""
    yield from _vision_cache(config, phases, has_vision=has_vision)
    yield from _lora(config)
    if "max_steps" in config.model_fields_set and config.max_steps != phases[-1].last_step:
        yield (
            f"train.max_steps={config.max_steps} has no effect: every phase has a length of its"
            f" own, {phases[-1].last_step} steps in all"
        )


def _vision_cache(
    config: TrainConfig, phases: Sequence[Phase], *, has_vision: bool
) -> Iterator[str]:
    asked = f"train.vision_cache={config.vision_cache}"
    if config.vision_cache_folder is not None and config.vision_cache != "disk":
        yield f"train.vision_cache_folder has no effect: {asked}, and only disk keeps files"
    if config.vision_cache == "off":
        return
    if not has_vision:
        yield f"{asked} has no effect: this model sees no images"
        return
    live = [phase for phase in phases if phase.unfreeze]
    if live:
        names = ", ".join(phase.name for phase in live)
        key = "train.unfreeze" if config.unfreeze else "unfreeze in train.curriculum"
        yield (
            f"{asked} has no effect in phase {names}: {' and '.join(live[-1].unfreeze)} of the"
            f" tower are trained there ({key}), and what it makes of an image changes"
        )


def _lora(config: TrainConfig) -> Iterator[str]:
    given = sorted(config.lora.model_fields_set)
    if config.method == "full" and given:
        keys = ", ".join(f"train.lora.{name}" for name in given)
        yield (
            f"{keys} {'have' if len(given) > 1 else 'has'} no effect: train.method=full trains the"
            " weights themselves, without an adapter"
        )
