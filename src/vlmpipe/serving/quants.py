"""Which of the converted files is served."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.errors import ArtifactError, ConfigError

ARTIFACTS = "artifacts.json"


@dataclass(frozen=True)
class ServedFiles:
    """A GGUF file and, for a vision model, its mmproj."""

    quant: str
    gguf: Path
    mmproj: Path | None
    excluded: str | None
    """Why convert excluded this type, where it did."""


def served_files(converted: Path, quant: str | None) -> ServedFiles:
    """The files of the type asked for, or of the one that convert recommends.

    Raises:
        ConfigError: when that type was not converted, or was excluded.
        ArtifactError: when artifacts.json or a file that it names is missing.
    """
    artifacts = _read(converted / ARTIFACTS)
    chosen = quant or artifacts["recommended"]
    name = artifacts["quants"].get(chosen)
    if name is None:
        raise ConfigError(
            f"deploy.quant={chosen}: no file of that type was converted",
            f"choose one of them: deploy.quant={'|'.join(artifacts['quants'])}",
            f"or convert it too: add {chosen!r} to convert.quants",
        )
    excluded = artifacts.get("excluded", {}).get(chosen)
    if quant and excluded:
        raise ConfigError(
            f"deploy.quant={chosen}: convert excluded this file: {excluded}",
            f"serve the one that convert recommends: deploy.quant={artifacts['recommended']}",
            f"or allow it more: parity.max_kld.{chosen}=X, and convert again",
        )
    mmproj = artifacts.get("mmproj")
    return ServedFiles(
        quant=chosen,
        gguf=_existing(converted, name),
        mmproj=_existing(converted, mmproj) if mmproj else None,
        excluded=excluded,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ArtifactError(
            f"{path} cannot be read: {exc}",
            "convert again: `vlmpipe run-all --force convert` with the same options",
        ) from exc
    return content


def _existing(converted: Path, name: str) -> Path:
    path = converted / "gguf" / Path(name).name
    if not path.is_file():
        raise ArtifactError(
            f"{path} is missing",
            "convert again: `vlmpipe run-all --force convert` with the same options",
        )
    return path
