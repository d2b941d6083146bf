"""The vision tower inside whatever wraps the model, and its place off the accelerator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vlmpipe.errors import ConfigError
from vlmpipe.models.families import FAMILIES, Family
from vlmpipe.models.loading import release_memory
from vlmpipe.models.wrapping import unwrapped


def family_in(model: Any) -> Family:
    """The family of a loaded model, wrapped or not."""
    return FAMILIES[unwrapped(model).config.model_type]


def tower_of(model: Any) -> Any:
    """The vision tower's module, mergers included.

    Raises:
        ConfigError: for a family that has none.
    """
    family = family_in(model)
    if family.vision_prefix is None:
        raise ConfigError(
            f"{family.title} has no vision tower whose features could be kept",
            "leave the cache off: train.vision_cache=off",
        )
    return unwrapped(model).get_submodule(family.vision_prefix)


def refuse_trained_tower(
    model: Any, mode: str, unfrozen: Sequence[str] = (), phase: str = ""
) -> None:
    """Refuse to keep features of a tower that is about to change.

    `mode` is `train.vision_cache`; `unfrozen` the parts that the configuration opens in the phase.

    Raises:
        ConfigError: where a part of the tower is open to training.
    """
    trained = [name for name, each in tower_of(model).named_parameters() if each.requires_grad]
    if not trained and not unfrozen:
        return
    where = f"phase {phase!r}" if phase else "this training"
    opened = f"train.unfreeze={list(unfrozen)}" if unfrozen else f"{len(trained)} weights are open"
    raise ConfigError(
        f"train.vision_cache={mode} keeps what a frozen vision tower makes of an image, and"
        f" {where} trains a part of it ({opened})",
        "compute the features anew in each step: train.vision_cache=off",
        "or leave the tower frozen: train.unfreeze=[] and no `unfreeze` in train.curriculum",
        problems=[f"{name} is trained" for name in trained[:3]],
    )


class TowerPlace:
    """Takes the tower's weights off the accelerator while nothing needs them.

    Weights alone: buffers are small, and DDP broadcasts those of all modules in each forward pass,
    which must then lie on the accelerator. Nothing happens where the tower is on a CPU anyway.
    After `release`, `model.device` says cpu, since transformers takes the first weight's.
    """

    def __init__(self, model: Any) -> None:
        self._tower = tower_of(model)
        self.device = next(self._tower.parameters()).device
        """Where the tower computes."""

    def release(self) -> int:
        """Move the weights to the CPU; bytes that the accelerator got back."""
        if self.device.type == "cpu":
            return 0
        moved = self._move("cpu")
        release_memory()
        return moved

    def restore(self) -> None:
        """Move the weights back, bit for bit as they were."""
        self._move(self.device)

    @contextmanager
    def present(self) -> Iterator[None]:
        """The tower on its own device inside, and afterwards where it was before."""
        released = next(self._tower.parameters()).device != self.device
        self.restore()
        try:
            yield
        finally:
            if released:
                self.release()

    def _move(self, device: Any) -> int:
        import torch

        moved = 0
        for parameter in self._tower.parameters():
            if parameter.device != torch.device(device):
                parameter.data = parameter.data.to(device)
                moved += parameter.numel() * parameter.element_size()
        return moved
