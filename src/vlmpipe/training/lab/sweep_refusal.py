"""Settings that no trial of a sweep can train with, found once and before the first one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.data.sources import refuse_unreadable
from vlmpipe.errors import ConfigError, VlmpipeError
from vlmpipe.models.embedded import PREFIX, embedded_model, untrained
from vlmpipe.models.families import FAMILIES, Family, family_of
from vlmpipe.models.quiet import quiet_transformers
from vlmpipe.training.adapter import unfrozen_modules
from vlmpipe.training.batching.packed_attention import packing_for
from vlmpipe.training.curriculum import unfreezing
from vlmpipe.training.lab.sweep_file import Trial

Outline = tuple[Family, Any]
"""A model's family, and its modules without weights."""

Outliner = Callable[[str, str | None, str], Outline | None]
"""By id, revision and attention."""


def refuse_hopeless(trials: Sequence[Trial]) -> None:
    """Raise where every trial is known to fail; where some are not, those that do become rows.

    Held against each other are sources and files, and the model's shape, without its weights, and
    what is trained and packed of it.

    Raises:
        ConfigError: with the faults of all trials, each once.
    """
    faults: list[VlmpipeError] = []
    outline = cache(_outline)
    for trial in trials:
        own = list(_faults_of(trial.config, outline))
        if not own:
            return
        faults += own
    raise ConfigError(
        f"no trial of the sweep can work; of {len(trials)} none was begun",
        *dict.fromkeys(remedy for fault in faults for remedy in fault.remedies),
        problems=list(
            dict.fromkeys(text for fault in faults for text in (fault.message, *fault.problems))
        ),
    )


def _faults_of(config: Config, outline: Outliner) -> Iterator[VlmpipeError]:
    yield from _refused(refuse_unreadable, config.data.sources)
    asked = config.model
    try:
        known = outline(asked.id, asked.revision, asked.attn_implementation)
    except VlmpipeError as fault:
        yield fault
        return
    if known is not None:
        family, model = known
        parts = unfreezing(config.train, has_vision=family.has_vision)[-1]
        yield from _refused(unfrozen_modules, model, family, config.train, parts)
        yield from _refused(packing_for, config, model)


def _refused(check: Callable[..., Any], *args: Any) -> Iterator[VlmpipeError]:
    try:
        check(*args)
    except VlmpipeError as fault:
        yield fault


def _outline(model_id: str, revision: str | None, attention: str) -> Outline | None:
    """The model's modules without weights; None where they cannot be had at once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    if model_id.startswith(PREFIX):
        name = model_id.removeprefix(PREFIX)
        family, shape = FAMILIES[embedded_model(name).family], untrained(name).config
    else:
        folder = _config_folder(model_id, revision)
        if folder is None:
            return None
        family, shape = family_of(folder), AutoConfig.from_pretrained(str(folder))
    kind = AutoModelForImageTextToText if family.has_vision else AutoModelForCausalLM
    with quiet_transformers(), torch.device("meta"):
        try:
            return family, kind.from_config(shape, attn_implementation=attention)
        except (ImportError, ValueError):  # an attention that is not installed: a trial tells it
            return None


def _config_folder(model_id: str, revision: str | None) -> Path | None:
    """Where the model's config.json is: a folder, or what is in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    local = Path(model_id).expanduser()
    if local.is_dir():
        return local
    try:
        cached = try_to_load_from_cache(model_id, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None
