"""The whole configuration: one section for each stage that has knobs, and the run's identity."""

from __future__ import annotations

from pydantic import Field

from vlmpipe.config.base import Section
from vlmpipe.config.convert import ConvertConfig
from vlmpipe.config.data import DataConfig
from vlmpipe.config.deploy import DeployConfig
from vlmpipe.config.merge import MergeConfig
from vlmpipe.config.model import ModelConfig
from vlmpipe.config.parity import ParityConfig
from vlmpipe.config.run import RunConfig
from vlmpipe.config.train import TrainConfig
from vlmpipe.config.validate import ValidateConfig


class Config(Section):
    """Everything that a run can be told."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    validation: ValidateConfig = Field(default=ValidateConfig(), alias="validate")
    """Section `validate`; pydantic models have a method of that name."""

    merge: MergeConfig = MergeConfig()
    parity: ParityConfig = ParityConfig()
    convert: ConvertConfig = ConvertConfig()
    deploy: DeployConfig = DeployConfig()
