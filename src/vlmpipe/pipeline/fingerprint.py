"""What a stage's result depends on, as canonical JSON and its sha256."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlmpipe.pipeline.files import sha256_of, write_json
from vlmpipe.pipeline.stage import ConfigLike, Stage

Parts = dict[str, Any]
PREFIXES = {"settings": "", "external": "", "tools": "tool ", "verdicts": "verdict of "}
"""How each part is named to a person; settings and files need no introduction."""


def canonical_json(value: Any) -> str:
    """Sorted keys, no spaces, UTF-8: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint_of(parts: Parts) -> str:
    """sha256 over the canonical JSON of everything that decides a result."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def settings_read(stage: Stage, config: ConfigLike) -> dict[str, Any]:
    """The values under `stage.reads`, flat by dotted key; gates and ignored keys left out."""
    flat = flatten(config.model_dump(mode="json", by_alias=True))
    return {
        key: value
        for key, value in flat.items()
        if _under(key, stage.reads) and not _under(key, stage.ignores) and not key.endswith(".gate")
    }


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested maps to dotted keys; lists stay whole, an empty map is no key at all."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{path}."))
        else:
            flat[path] = value
    return flat


def _under(key: str, prefixes: Iterable[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def fingerprint_parts(
    stage: Stage,
    config: ConfigLike,
    upstream_files: Mapping[str, Mapping[str, str]],
    verdicts: Mapping[str, bool | None],
    hashes: HashIndex,
) -> Parts:
    """Everything that decides the stage's result.

    `upstream_files` maps each consumed stage to the sha256 of its hand-off files; `verdicts` maps
    each gating stage to whether it passed.
    """
    return {
        "stage": stage.name,
        "stage_version": stage.version,
        "settings": settings_read(stage, config),
        "upstream": {name: dict(files) for name, files in upstream_files.items()},
        "verdicts": dict(verdicts),
        "external": {
            name: hashes.sha256(path) for name, path in sorted(stage.external(config).items())
        },
        "tools": dict(stage.tools()),
    }


def explain(before: Parts, now: Parts) -> list[str]:
    """What differs between two sets of parts, by dotted configuration key or by file."""
    why: list[str] = []
    if before.get("stage_version") != now["stage_version"]:
        why.append(f"the stage itself changed (version {now['stage_version']})")
    for part, prefix in PREFIXES.items():
        why += _changed(before.get(part, {}), now[part], prefix)
    upstream = before.get("upstream", {})
    for name in sorted({*upstream, *now["upstream"]}):
        why += _changed(upstream.get(name, {}), now["upstream"].get(name, {}), f"{name}/")
    return why


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> list[str]:
    absent = object()
    changed = (key for key in {**before, **now} if before.get(key, absent) != now.get(key, absent))
    return [f"{prefix}{key}" for key in sorted(changed)]


class HashIndex:
    """sha256 of outside files, remembered by size, mtime and inode between invocations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        # A memory only: what cannot be read is computed again, what cannot be kept is not.
        with suppress(OSError, ValueError):
            known = json.loads(path.read_text(encoding="utf-8"))
            self._known = known if isinstance(known, dict) else {}

    def sha256(self, path: Path) -> str:
        """Digest of a file, `missing` or `unreadable` where there is none."""
        try:
            stat = os.stat(path)
            key, mark = str(path.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ino]
            entry = self._known.get(key)
            if entry is None or entry[:3] != mark:
                self._known[key] = [*mark, sha256_of(path)]
        except FileNotFoundError:
            return "missing"
        except OSError:
            return "unreadable"
        return str(self._known[key][3])

    def save(self) -> None:
        """Keep what was learned."""
        if self._known:
            with suppress(OSError):
                write_json(self._path, self._known)
