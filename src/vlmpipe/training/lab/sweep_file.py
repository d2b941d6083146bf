"""A sweep as a file says it: which settings, crossed with which."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from vlmpipe.config import Config, load_config
from vlmpipe.config.base import Section
from vlmpipe.config.faults import describe_errors
from vlmpipe.config.values import read_yaml
from vlmpipe.errors import ConfigError
from vlmpipe.tasks import task_of

NOT_SWEPT = ("run.name", "run.outputs_dir")
SEED_KEY = "run.seed"
NAME_LENGTH = 24
"""Of a run's and a sweep's name within a trial's, which may have 64 characters."""


class SweepFile(Section):
    """Trials: every combination of `grid`, each with `fixed`, each once a seed."""

    grid: dict[str, tuple[Any, ...]] = Field(min_length=1)
    """Dotted keys of the configuration, each with the values to try."""

    fixed: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys that all trials share, over the configuration's own."""

    metric: str | None = None
    """Of validate, such as heldout/teds/tuned; unset: the task's primary metric, held out."""

    seeds: tuple[int, ...] = ()
    """`run.seed` of the repetitions; unset: the configuration's own, once."""

    @field_validator("grid")
    @classmethod
    def grid_has_values(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        """Each key has values, and none of them twice."""
        for key, values in grid.items():
            if not values:
                raise ValueError(f"{key} has no values to try")
            if len({json.dumps(value, sort_keys=True) for value in values}) < len(values):
                raise ValueError(f"{key} has a value twice: {list(values)}")
        return grid


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    number: int
    """From 1, in the grid's order."""

    name: str
    """The run's; the same settings have the same, whatever else the file holds."""

    settings: Mapping[str, Any]
    """What differs between trials: values of `grid`."""

    seed: int | None
    words: tuple[str, ...]
    """`KEY=VALUE`, after those of the command."""

    config: Config


@dataclass(frozen=True)
class Sweep:
    """All trials, validated."""

    name: str
    home: str
    """Name of the run that the configuration is of."""

    metric: str
    trials: tuple[Trial, ...]
    seeds: tuple[int, ...]


def read_sweep(file: Path, files: Sequence[Path], words: Sequence[str]) -> Sweep:
    """Read a sweep file over a configuration and validate every trial.

    Raises:
        ConfigError: with the faults of the file, or of all trials together.
    """
    asked = _parsed(file)
    config = load_config(files, words)
    problems: list[str] = []
    trials = []
    for number, (settings, seed) in enumerate(_combinations(asked), start=1):
        try:
            trials.append(_trial(number, settings, seed, asked, file.stem, files, words, config))
        except ConfigError as exc:
            problems += [each for each in exc.problems or (exc.message,) if each not in problems]
    if problems:
        raise ConfigError(
            f"{file}: some trials cannot be configured", "correct grid or fixed", problems=problems
        )
    metric = asked.metric or f"heldout/{task_of(config.data.task).primary_metric}"
    metric = metric if metric.count("/") > 1 else f"{metric}/tuned"
    return Sweep(file.stem, config.run.name, metric, tuple(trials), asked.seeds)


def _parsed(file: Path) -> SweepFile:
    try:
        asked = SweepFile.model_validate(read_yaml(file))
    except ValidationError as exc:
        raise ConfigError(
            f"{file} is no sweep",
            "it holds grid, and may hold fixed, metric and seeds: see configs/sweeps/lora.yaml",
            problems=describe_errors(SweepFile, exc),
        ) from exc
    keys = [*asked.grid, *asked.fixed]
    for key in NOT_SWEPT:
        if key in keys:
            raise ConfigError(f"{file} sets {key}, which tells trials apart", f"leave out {key}")
    if SEED_KEY in keys and asked.seeds:
        raise ConfigError(f"{file} sets both seeds and {SEED_KEY}", "keep one of them")
    twice = sorted(set(asked.grid) & set(asked.fixed))
    if twice:
        raise ConfigError(f"{file} has {twice[0]} in both grid and fixed", "keep one of them")
    return asked


def _combinations(asked: SweepFile) -> list[tuple[dict[str, Any], int | None]]:
    """Settings with seeds; all seeds of one before the next."""
    products = itertools.product(*asked.grid.values())
    settings = [dict(zip(asked.grid, values, strict=True)) for values in products]
    return list(itertools.product(settings, asked.seeds or (None,)))


def _trial(
    number: int,
    settings: Mapping[str, Any],
    seed: int | None,
    asked: SweepFile,
    stem: str,
    files: Sequence[Path],
    words: Sequence[str],
    config: Config,
) -> Trial:
    seeded = {} if seed is None else {SEED_KEY: seed}
    every = {**asked.fixed, **settings, **seeded}
    digest = hashlib.sha256(json.dumps(every, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{config.run.name[:NAME_LENGTH]}-{stem[:NAME_LENGTH]}-{digest}"
    own = (*(word_of(key, value) for key, value in every.items()), f"run.name={name}")
    return Trial(number, name, settings, seed, own, load_config(files, [*words, *own]))


def word_of(key: str, value: Any) -> str:
    """`KEY=VALUE`; every JSON value is read back as itself."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"
