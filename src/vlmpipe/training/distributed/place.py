"""Where this process stands among those that a launcher started together, and what it was asked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from vlmpipe.errors import ConfigError

Strategy = Literal["ddp", "fsdp2", "deepspeed"]

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


def asked_strategy(environment: Mapping[str, str] = os.environ) -> Strategy:
    """How the launcher's configuration wants the model spread over the processes.

    Raises:
        ConfigError: for one that vlmpipe cannot train under, or whose library is missing.
    """
    if _is_on(environment, "ACCELERATE_USE_DEEPSPEED"):
        require_deepspeed()
        return "deepspeed"
    if _is_on(environment, "ACCELERATE_USE_FSDP"):
        if environment.get("FSDP_VERSION", "1") != "2":
            raise ConfigError(
                f"FSDP version {environment.get('FSDP_VERSION', '1')} is asked for, and only 2 is"
                " supported",
                "set fsdp_config.fsdp_version: 2, as configs/accelerate/fsdp2.yaml does",
                "or replicate the model: configs/accelerate/ddp.yaml",
            )
        return "fsdp2"
    for name, title in (
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism_config"),
    ):
        if _is_on(environment, name):
            raise ConfigError(
                f"accelerate's configuration asks for {title}, which is not supported",
                "take one of configs/accelerate: ddp.yaml, fsdp2.yaml, zero2.yaml, zero3.yaml",
            )
    return "ddp"


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
    """Have the launcher's settings in the environment, where torch and accelerate look for them."""
    os.environ.update(launch)
    try:
        yield
    finally:
        for name in launch:
            os.environ.pop(name, None)


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in ("true", "1", "yes")
