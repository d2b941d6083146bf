"""What a run published, as the systems that can be asked are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract, read_contract
from vlmpipe.errors import ArtifactError
from vlmpipe.evaluation.published import PublishedStage
from vlmpipe.evaluation.records import MergeState

WEIGHTS = (".safetensors", ".gguf")


@dataclass(frozen=True)
class Run:
    """One run's published stages, by name."""

    config: Config
    folder: Path
    stages: Mapping[str, PublishedStage]

    def stage(self, name: str) -> PublishedStage:
        """A stage that has to be there.

        Raises:
            ArtifactError: when it was not published.
        """
        if name not in self.stages:
            raise ArtifactError(f"the run {self.folder} has not published {name}")
        return self.stages[name]

    @property
    def trained(self) -> str:
        """What train made: `adapter` or `full`."""
        return "adapter" if (self.stage("train").folder / "adapter").is_dir() else "full"

    def artifacts(self) -> Mapping[str, Any]:
        """What convert says of its files; empty before convert."""
        convert = self.stages.get("convert")
        found = convert.read_json("artifacts.json") if convert else None
        return found if isinstance(found, dict) else {}

    def model_name(self, state: MergeState) -> str:
        """The base's id, or the run's name for what came of it."""
        base = str((self.stage("setup").read_json("model.json") or {}).get("id", "base"))
        return base if state == "base" else f"{self.config.run.name}-finetune"

    def served_contract(self) -> PreprocessContract:
        """That of the stage furthest on: what a server was made from.

        Raises:
            ArtifactError: before train.
        """
        for stage in ("convert", "merge", "train"):
            if stage in self.stages:
                return read_contract(self.stages[stage].folder)
        raise ArtifactError("the run has no preprocess contract yet; train writes it")


def weights(stage: PublishedStage, folder: str) -> dict[str, str]:
    """sha256 of a stage's weight files under one of its folders, by path."""
    return {
        path: record.sha256
        for path, record in stage.manifest.outputs.items()
        if path.startswith(folder) and path.endswith(WEIGHTS)
    }
