"""YAML 1.2 as the configuration reads it: a file of sections, or the value after `KEY=`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError

from vlmpipe.errors import ConfigError

ConfigTree = dict[str, Any]


class _Constructor(SafeConstructor):
    """YAML 1.2's core schema: a date is text, and so are `=` and `<<`."""


for _tag in ("timestamp", "value", "merge"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_tag}", SafeConstructor.construct_yaml_str)


def read_yaml(file: Path) -> ConfigTree:
    """The mapping that a file holds.

    Raises:
        ConfigError: naming the file, and the line where it is not YAML.
    """
    try:
        tree = _load(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(
            f"cannot read the configuration file {file}: {exc.strerror or exc}"
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"the configuration file {file} is not UTF-8 text") from exc
    except YAMLError as exc:
        raise ConfigError(f"{file}{_place(exc)} is not valid YAML: {_fault(exc)}") from exc
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} holds a {type(tree).__name__}, not sections of keys")
    return tree


def parse_value(text: str) -> Any:
    """A YAML 1.2 scalar, or JSON for a list or a map; anything else is the text itself.

    Raises:
        ValueError: for what begins like JSON and is not.
    """
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as exc:
            raise ValueError(
                f"the value {text!r} is not valid JSON: {exc.msg}"
                " (in a list or a map, words stand in double quotes)"
            ) from exc
    try:
        value = _load(text)
    except YAMLError:
        return text
    if isinstance(value, str) and text[:1] in ("'", '"'):
        return value
    return text if isinstance(value, str | dict | list) else value


def _load(text: str) -> Any:
    parser = YAML(typ="safe", pure=True)
    parser.Constructor = _Constructor
    return parser.load(text)


def _place(exc: YAMLError) -> str:
    mark = getattr(exc, "problem_mark", None)
    return f":{mark.line + 1}:{mark.column + 1}" if mark else ""


def _fault(exc: YAMLError) -> str:
    return (getattr(exc, "problem", None) or str(exc)).strip().splitlines()[0]
