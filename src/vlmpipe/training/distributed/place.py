"""Where this process stands among those that a launcher started together, and what it was asked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from vlmpipe.errors import ConfigError

Strategy = Literal["ddp", "fsdp2", "deepspeed"]

OUR_FILES = ("take one of configs/accelerate: ddp.yaml, fsdp2.yaml, zero2.yaml, zero3.yaml",)
REFUSED = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM, which is not supported",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config, which is not supported",
}

LAUNCHED_BY = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun, accelerate and `vlmpipe train --num-processes` all set."""

LAUNCH_PREFIXES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_")
LAUNCH_NAMES = (
    *LAUNCHED_BY,
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_NAME",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
)


@dataclass(frozen=True)
class Sharing:
    """How processes share the model: each holds it (ddp), or a part of it."""

    strategy: Strategy
    reshard_after_forward: bool = True
    """Of FSDP2: whether a layer is given back between its forward and its backward pass."""

    zero_stage: int | None = None
    """Of DeepSpeed, where its settings name one."""


@dataclass(frozen=True)
class Place:
    """One process among `world`, numbered over all machines."""

    rank: int
    world: int
    local_rank: int
    """Number on its own machine: which GPU is its own."""

    @property
    def is_first(self) -> bool:
        """Process 0 runs the pipeline; the others only join its training."""
        return self.rank == 0


def place_of(environment: Mapping[str, str] = os.environ) -> Place | None:
    """This process's place; None where it was started alone."""
    if any(name not in environment for name in LAUNCHED_BY):
        return None
    rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    return Place(rank, world, int(environment.get("LOCAL_RANK", rank))) if world > 1 else None


def asked_sharing(environment: Mapping[str, str] = os.environ) -> Sharing:
    """How the launcher's configuration wants the model spread over the processes.

    Raises:
        ConfigError: for a way that vlmpipe cannot train, or whose library is missing.
    """
    for name, title in REFUSED.items():
        if _is_on(environment, name):
            raise ConfigError(f"accelerate's configuration asks for {title}", *OUR_FILES)
    if _is_on(environment, "ACCELERATE_USE_DEEPSPEED"):
        require_deepspeed()
        return Sharing("deepspeed", zero_stage=_zero_stage(environment))
    if _is_on(environment, "ACCELERATE_USE_FSDP"):
        version = environment.get("FSDP_VERSION", "1")
        if version != "2":
            raise ConfigError(
                f"accelerate's configuration asks for FSDP {version}, and only 2 is supported",
                "set fsdp_config.fsdp_version: 2",
                *OUR_FILES,
            )
        keeps = environment.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "false"
        return Sharing("fsdp2", reshard_after_forward=not keeps)
    return Sharing("ddp")


def require_deepspeed() -> None:
    """Refuse DeepSpeed where it is not installed.

    Raises:
        ConfigError: saying how to install it.
    """
    if find_spec("deepspeed") is None:
        raise ConfigError(
            "accelerate's configuration asks for DeepSpeed, which is not installed",
            "install it: pip install deepspeed (it compiles CUDA extensions: nvcc must be there)",
            "or shard with PyTorch alone: configs/accelerate/fsdp2.yaml",
            "or replicate the model: configs/accelerate/ddp.yaml",
        )


def take_launch(environment: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Take what the launcher set out of the environment, and return it.

    A program that process 0 starts, vLLM for one, would else take itself for a process of this
    training.
    """
    names = [n for n in environment if n in LAUNCH_NAMES or n.startswith(LAUNCH_PREFIXES)]
    return {name: environment.pop(name) for name in names}


@contextmanager
def launch_restored(launch: Mapping[str, str]) -> Iterator[None]:
    """Have the launcher's settings in the environment, where torch and accelerate look for them.

    Without the switch for accelerate's own FSDP: it is passed over on a CPU, without a word, and
    vlmpipe shards the model itself on every device.
    """
    settings = {name: text for name, text in launch.items() if name != "ACCELERATE_USE_FSDP"}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            os.environ.pop(name, None)


def _zero_stage(environment: Mapping[str, str]) -> int | None:
    file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if file is None:
        stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")
        return int(stage) if stage else None
    try:
        stage = json.loads(Path(file).read_bytes())["zero_optimization"]["stage"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(
            f"cannot read the stage of ZeRO from {file}: {exc}",
            "start in the folder that deepspeed_config_file is relative to, or give it from the"
            " root",
        ) from exc
    return int(stage)


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in ("true", "1", "yes")
