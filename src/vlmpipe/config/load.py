"""Files and words into one validated `Config`; every fault found is reported at once."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vlmpipe.config.root import Config
from vlmpipe.errors import ConfigError

ConfigTree = dict[str, Any]


def load_config(files: Sequence[Path] = (), overrides: Sequence[str] = ()) -> Config:
    """Merge defaults < `files` from left to right < `KEY=VALUE` overrides.

    Raises:
        ConfigError: with one line for each fault in any of them.
    """
    tree: ConfigTree = {}
    problems: list[str] = []
    for file in files:
        merge_into(tree, read_yaml(file))
    for word in overrides:
        try:
            apply_override(tree, word)
        except ValueError as exc:
            problems.append(str(exc))
    return parse_config(tree, problems)


def parse_config(tree: Mapping[str, Any], problems: Sequence[str] = ()) -> Config:
    """Validate a merged tree, adding its faults to `problems` met before."""
    found = list(problems)
    config: Config | None = None
    try:
        config = Config.model_validate(tree)
    except ValidationError as exc:
        found += describe_errors(exc)
    if found or config is None:
        raise ConfigError(
            f"the configuration has {len(found)} fault{'s' if len(found) != 1 else ''}",
            "`vlmpipe config show` prints every key with its value and meaning",
            problems=found,
        )
    return config


def read_yaml(file: Path) -> ConfigTree:
    """A YAML 1.2 mapping, or ConfigError naming the file and the line."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(
            f"cannot read the configuration file {file}: {exc.strerror or exc}",
            "give an existing file with -c FILE",
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"the configuration file {file} is not UTF-8 text") from exc
    parser = YAML(typ="safe", pure=True)
    try:
        tree = parser.load(text)
    except YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        fault = getattr(exc, "problem", None) or str(exc).splitlines()[0]
        raise ConfigError(f"{file}{where} is not valid YAML: {fault}") from exc
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} holds a {type(tree).__name__}, not sections of keys")
    return tree


def merge_into(base: ConfigTree, overlay: Mapping[str, Any]) -> None:
    """Maps merge key by key, anything else (lists too) replaces."""
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge_into(base[key], value)
        else:
            base[key] = copy.deepcopy(value)


def apply_override(tree: ConfigTree, word: str) -> None:
    """Set one dotted key from `section.key=value`; lists and maps are given as JSON."""
    path, separator, text = word.partition("=")
    keys = path.split(".")
    if not separator or not all(keys):
        raise ValueError(f"{word!r} is not KEY=VALUE, e.g. train.max_steps=20")
    for section in keys[:-1]:
        inner = tree.get(section)
        tree[section] = tree = inner if isinstance(inner, dict) else {}
    tree[keys[-1]] = parse_value(text)


def parse_value(text: str) -> Any:
    """A YAML 1.2 scalar, or JSON for a list or a map; anything else is the text itself."""
    if text[:1] in "[{":
        try:
            return json.loads(text)
        except json.JSONDecodeError as exc:
            raise ValueError(f"the value {text!r} is not valid JSON: {exc.msg}") from exc
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return text
    return text if isinstance(value, (dict, list)) else value


def describe_errors(error: ValidationError) -> list[str]:
    """One line for each fault: dotted path, what is wrong, the value, and a near miss."""
    return [_describe(detail) for detail in error.errors(include_url=False)]


def _describe(detail: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in detail["loc"]) or "configuration"
    if detail["type"] == "extra_forbidden":
        return f"{path}: unknown key{_near_miss(detail['loc'])}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{path}: {message[:1].lower()}{message[1:]}, got {detail['input']!r}"


def _near_miss(location: Sequence[Any]) -> str:
    known = _keys_at(Config, location[:-1])
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _keys_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        field = next(
            (f for n, f in model.model_fields.items() if part in (n, f.alias)), None
        )
        section = _section_of(field.annotation) if field else None
        if section is None:
            return []
        model = section
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        section = _section_of(inner)
        if section is not None:
            return section
    return None
