"""Files and words into one validated `Config`; every fault found is reported at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlmpipe.config.faults import describe_errors
from vlmpipe.config.root import Config
from vlmpipe.config.values import ConfigTree, parse_value, read_yaml
from vlmpipe.errors import ConfigError


def load_config(files: Sequence[Path] = (), overrides: Sequence[str] = ()) -> Config:
    """Merge defaults < `files` from left to right < `KEY=VALUE` overrides.

    Raises:
        ConfigError: with one line for each fault in any of them.
    """
    tree: ConfigTree = {}
    problems: list[str] = []
    for file in files:
        try:
            merge_into(tree, read_yaml(file))
        except ConfigError as exc:
            problems.append(exc.message)
    for word in overrides:
        try:
            merge_into(tree, parse_override(word))
        except ValueError as exc:
            problems.append(str(exc))
    return parse_config(tree, problems)


def parse_config(tree: Mapping[str, Any], problems: Sequence[str] = ()) -> Config:
    """Validate a merged tree, adding its faults to `problems` met before.

    Raises:
        ConfigError: with one line for each fault.
    """
    found = list(problems)
    try:
        config = Config.model_validate(tree)
    except ValidationError as exc:
        found += describe_errors(Config, exc)
    if found:
        raise ConfigError(
            f"the configuration has {len(found)} fault{'s' if len(found) != 1 else ''}",
            "`vlmpipe config show` prints every key with its value and meaning",
            problems=found,
        )
    return config


def merge_into(base: ConfigTree, overlay: Mapping[str, Any]) -> None:
    """Maps merge key by key, anything else (lists too) replaces."""
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge_into(base[key], value)
        else:
            base[key] = copy.deepcopy(value)


def parse_override(word: str) -> ConfigTree:
    """`section.key=value` as a tree of that one key.

    Raises:
        ValueError: when it is not of that form.
    """
    path, separator, text = word.partition("=")
    keys = path.split(".")
    if not separator and path.endswith((".yaml", ".yml")):
        raise ValueError(f"{word!r} is not KEY=VALUE; a configuration file is given as -c {word}")
    if not separator or not all(keys):
        raise ValueError(f"{word!r} is not KEY=VALUE, e.g. train.max_steps=20")
    value = parse_value(text)
    for key in reversed(keys):
        value = {key: value}
    tree: ConfigTree = value
    return tree
