"""What base and tuned are, as each of their records says it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmpipe.config import Config
from vlmpipe.engines.base import Engine
from vlmpipe.errors import ArtifactError
from vlmpipe.evaluation.published import PublishedStage
from vlmpipe.evaluation.records import System
from vlmpipe.evaluation.systems import Systems
from vlmpipe.pipeline.manifest import read_manifest


def identities(
    config: Config, upstream: Mapping[str, Path], engines: Mapping[str, Engine]
) -> dict[str, System]:
    """One for each engine, from the manifests of the versions that are compared.

    Raises:
        ArtifactError: when a manifest is damaged or missing.
    """
    # Not the latest ones: `--use` may have chosen others.
    stages = {name: _published(name, folder) for name, folder in upstream.items()}
    systems = Systems(config, next(iter(upstream.values())).parents[1], stages=stages)
    return {
        model: systems.order(engine.name).identity(
            engine.version,
            max_new_tokens=config.validation.max_new_tokens,
            seed=config.run.seed,
        )
        for model, engine in engines.items()
    }


def _published(name: str, folder: Path) -> PublishedStage:
    manifest = read_manifest(folder)
    if manifest is None:
        raise ArtifactError(f"{folder} was never published: it has no manifest")
    return PublishedStage(name, manifest.number, folder.name, folder, manifest)
