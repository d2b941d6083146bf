"""Whether features of images can be kept where the configuration says."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from vlmpipe.config.train import TrainConfig
from vlmpipe.errors import StageError
from vlmpipe.system.cache import cache_folder


def audit_cache_folder(config: TrainConfig) -> Path:
    """Try to write where `train.vision_cache: disk` would, and leave nothing there; the folder.

    Raises:
        StageError: where that is refused.
    """
    folder = config.vision_cache_folder or cache_folder() / "vision"
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with TemporaryDirectory(prefix=".vlmpipe-audit-", dir=existing):
            return folder
    except OSError as exc:
        raise StageError(
            f"the folder for features of images, {folder}, cannot be written:"
            f" {exc.strerror or exc} ({existing})",
            "choose another: train.vision_cache_folder=DIR",
            "keep them in memory, for this training alone: train.vision_cache=memory",
            "or compute them anew in each step: train.vision_cache=off",
        ) from exc
