"""What a model is asked to see what a training cost it elsewhere: nothing that it was trained on.

Shipped kinds, see `data.general`, drawn by a fixed seed, the same for every run; or a file.
"""

from __future__ import annotations

from collections.abc import Collection

from vlmpipe.config import Config
from vlmpipe.data.general import (
    GENERAL,
    READING,
    REQUEST,
    general_config,
    general_samples,
    reading_sample,
    request_sample,
)
from vlmpipe.encoding.conversation import Sample
from vlmpipe.errors import ConfigError
from vlmpipe.evaluation.sources import open_source

__all__ = [
    "GENERAL",
    "READING",
    "REQUEST",
    "general_config",
    "general_probe",
    "general_samples",
    "reading_sample",
    "refuse_missing_probe",
    "request_sample",
]


def general_probe(config: Config, trained: Collection[str], *, has_vision: bool) -> list[Sample]:
    """What section `validate.general` asks for: a file of messages, or the shipped kinds.

    Raises:
        ConfigError: for a file that cannot be read, or that has images for a model without vision.
        BadSamplesError: naming each line of the file that is no sample.
    """
    asked = config.validation.general
    if not asked.samples:
        return []
    if asked.path is None:
        return general_samples(asked.samples, trained, has_vision=has_vision)
    refuse_missing_probe(config)
    samples = list(open_source(general_config(config), str(asked.path), None, asked.samples))
    if not has_vision and any(sample.images for sample in samples):
        raise ConfigError(
            f"validate.general.path {asked.path} has images, and the model reads text only",
            "give samples of text alone: validate.general.path=FILE.jsonl",
            "or take the shipped ones: validate.general.path=null",
        )
    return samples


def refuse_missing_probe(config: Config) -> None:
    """Raise ConfigError where `validate.general.path` is no file: before a training, say."""
    path = config.validation.general.path
    if path is not None and not path.is_file():
        raise ConfigError(
            f"validate.general.path {path} is no file",
            "give a JSONL file of messages: validate.general.path=FILE.jsonl",
            "or take the shipped probe: validate.general.path=null",
        )
