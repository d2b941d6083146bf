"""Checkpoints of a phase: written whole or not at all, and the newest sound one found again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmpipe.errors import StageError
from vlmpipe.pipeline.files import sha256_of, sync_path, sync_tree, write_json, write_text

ASIDE_NAME = ".writing"
"""Where a checkpoint lies until all of it is on the disk."""

RECORD_NAME = "checkpoint.json"
"""Size and sha256 of each other file of a checkpoint."""

BEST_NAME = "best"
"""Names the checkpoint that a phase ended with, where that is not the newest."""

STATES_OF_A_WEIGHT = 3
"""Itself and Adam's two moments."""


def checkpoint_step(checkpoint: Path) -> int:
    """Optimiser steps, within the phase, after which a checkpoint was taken."""
    return int(checkpoint.name.rpartition("-")[2])


def newest_checkpoint(folder: Path) -> Path | None:
    """The last sound checkpoint of a phase; what a kill or a disk damaged is passed over."""
    return next((each for each in _newest_first(folder) if is_sound(each)), None)


def is_sound(checkpoint: Path) -> bool:
    """Whether every file is there as it was written."""
    try:
        record = json.loads((checkpoint / RECORD_NAME).read_bytes())
        return all(
            (checkpoint / name).stat().st_size == size and sha256_of(checkpoint / name) == digest
            for name, (size, digest) in record.items()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def hand_on_best(folder: Path, step: int) -> None:
    """Say that a phase that was ended early is handed on as it was after `step`.

    Raises:
        StageError: when that checkpoint is gone or damaged.
    """
    checkpoint = folder / f"checkpoint-{step}"
    if not is_sound(checkpoint):
        raise StageError(
            f"the best weights of this phase should lie in {checkpoint}, which is damaged or gone",
            "train again: `vlmpipe run-all --force train` with the same options",
        )
    write_text(folder / BEST_NAME, f"{checkpoint.name}\n")


def final_checkpoint(folder: Path, steps: int) -> Path | None:
    """What a phase of `steps` steps ended with; None while it is not at its end."""
    if (folder / BEST_NAME).is_file():
        return folder / (folder / BEST_NAME).read_text(encoding="utf-8").strip()
    newest = newest_checkpoint(folder)
    return newest if newest and checkpoint_step(newest) >= steps else None


def seal(aside: Path, checkpoint: Path) -> None:
    """Publish a written checkpoint under its name, once all of it is on the disk."""
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    record = {
        str(path.relative_to(aside)): (path.stat().st_size, sha256_of(path)) for path in files
    }
    write_json(aside / RECORD_NAME, record)
    sync_tree(aside)
    # A damaged one of the same step was passed over, and its step taken again.
    shutil.rmtree(checkpoint, ignore_errors=True)
    aside.rename(checkpoint)
    sync_path(checkpoint.parent)


def drop_older(checkpoint: Path, kept: Container[int]) -> None:
    """Remove the checkpoints before a sealed one, but for those of the steps to keep."""
    for other in _newest_first(checkpoint.parent):
        if other != checkpoint and checkpoint_step(other) not in kept:
            shutil.rmtree(other, ignore_errors=True)


class SafeCheckpoints:
    """Mixin before a transformers Trainer: each checkpoint is written aside and renamed.

    Only the newest is kept beside those of `kept_steps`; the older one goes once the newer one is
    on the disk. All processes write into one shared folder.
    """

    kept_steps: Callable[[], Container[int]] = staticmethod(frozenset)
    """Steps within the phase whose checkpoints stay."""

    _aside: Path | None = None

    # Of the Trainer that this is mixed into.
    args: Any
    state: Any
    model: Any
    accelerator: Any

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL writes one with each checkpoint; what is published gets its card from merge."""

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._aside or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint of this step.

        Raises:
            StageError: when it cannot be written, in all processes; the one before it is kept.
        """
        folder = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        self._aside = folder / ASIDE_NAME
        self._drop_aside()
        self.accelerator.wait_for_everyone()
        try:
            with self._together(folder):
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
            with self._together(folder):
                if self.args.should_save:
                    seal(self._aside / name, folder / name)
                    drop_older(folder / name, self.kept_steps())
        finally:
            self._drop_aside()
            self._aside = None

    def _drop_aside(self) -> None:
        if self.args.should_save and self._aside:
            shutil.rmtree(self._aside, ignore_errors=True)

    @contextmanager
    def _together(self, folder: Path) -> Iterator[None]:
        """A process that cannot write stops all of them: the others would wait for it for ever."""
        from accelerate.utils import gather_object

        fault: Exception | None = None
        try:
            yield
        except Exception as exc:
            if not _is_write_fault(exc):
                raise
            fault = exc
        faults = [each for each in gather_object([fault and _cause(fault)]) if each]
        if faults:
            self._drop_aside()
            raise self._unwritten(folder, faults[0]) from fault

    def _unwritten(self, folder: Path, cause: str) -> StageError:
        kept = newest_checkpoint(folder)
        needed = _bytes_of(kept) if kept else _bytes_of_training(self.model)
        goes_on = f"after step {checkpoint_step(kept)}" if kept else "from the start"
        return StageError(
            f"the checkpoint after step {self.state.global_step} of this phase could not be written"
            f" to {folder}: {cause}; it needs about {_size(needed)}, and"
            f" {_size(shutil.disk_usage(folder).free)} are free",
            "free some space and give the same command again: this phase goes on " + goes_on,
            "or keep fewer checkpoints: train.checkpoint_steps=[]",
            "or keep runs on another disk: run.outputs_dir=FOLDER",
        )


def _newest_first(folder: Path) -> list[Path]:
    named = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    return sorted(named, key=checkpoint_step, reverse=True)


def _is_write_fault(error: Exception) -> bool:
    """Python, Rust and C++ each say it in their own way when a file cannot be written."""
    from safetensors import SafetensorError

    text = str(error)
    writers = ("PytorchStreamWriter", "inline_container", "basic_ios::clear", "iostream error")
    return isinstance(error, (OSError, SafetensorError)) or any(name in text for name in writers)


def _cause(error: Exception) -> str:
    """As a person reads it: torch tells of the place in its file at which it was cut short."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    full = "No space left on device"
    return full if full in str(error) else "a file was cut short"


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _bytes_of_training(model: Any) -> int:
    trained = [each for each in model.parameters() if each.requires_grad]
    return STATES_OF_A_WEIGHT * sum(each.numel() * each.element_size() for each in trained)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
