"""Checkpoints: whole or not at all, the newest sound one found, and a full disk survived."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from toy_training import GOOD, SAVED_BYTES, SaveEach, toy_phase, toy_trainer
from vlmpipe.errors import StageError
from vlmpipe.training import checkpoints
from vlmpipe.training.checkpoints import (
    ASIDE_NAME,
    RECORD_NAME,
    drop_older,
    final_checkpoint,
    hand_on_best,
    is_sound,
    newest_checkpoint,
    seal,
)
from vlmpipe.training.watch.callbacks import DueCheckpoints


def sealed(folder: Path, step: int) -> Path:
    aside = folder / ASIDE_NAME
    (aside / "global_step1").mkdir(parents=True)
    (aside / "optimizer.pt").write_bytes(b"state" * 100)
    (aside / "global_step1" / "shard.bin").write_bytes(b"shard")
    seal(aside, folder / f"checkpoint-{step}")
    return folder / f"checkpoint-{step}"


def cut(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-1])


def flip(checkpoint: Path) -> None:
    path = checkpoint / "global_step1" / "shard.bin"
    path.write_bytes(b"shard".swapcase())


def lose(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").unlink()


def unrecord(checkpoint: Path) -> None:
    (checkpoint / RECORD_NAME).unlink()


def garble(checkpoint: Path) -> None:
    (checkpoint / RECORD_NAME).write_text('["no", "record"]')


@pytest.mark.parametrize("damage", [cut, flip, lose, unrecord, garble])
def test_a_damaged_checkpoint_is_passed_over(damage: Any, tmp_path: Path) -> None:
    older, newer = sealed(tmp_path, 9), sealed(tmp_path, 10)
    assert newest_checkpoint(tmp_path) == newer
    damage(newer)
    assert newest_checkpoint(tmp_path) == older
    assert sealed(tmp_path, 10) == newer  # its step is taken again
    assert is_sound(newer)


def test_a_folder_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_checkpoint(tmp_path) is None
    assert final_checkpoint(tmp_path, 1) is None


def test_older_checkpoints_go_but_for_those_to_keep(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        newest = sealed(tmp_path, step)
    drop_older(newest, {4, 99})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-8"]


def test_a_phase_ended_early_hands_on_its_best_checkpoint(tmp_path: Path) -> None:
    best, _ = sealed(tmp_path, 4), sealed(tmp_path, 8)
    assert final_checkpoint(tmp_path, 20) is None
    hand_on_best(tmp_path, 4)
    assert final_checkpoint(tmp_path, 20) == best
    cut(best)
    with pytest.raises(StageError, match="damaged or gone"):
        hand_on_best(tmp_path, 4)


@pytest.mark.parametrize(("every", "saved"), [(None, [3, 7]), (2, [2, 3, 4, 6, 7]), (50, [3, 7])])
def test_checkpoints_are_due_every_few_steps_at_chosen_ones_and_at_the_end(
    every: int | None, saved: list[int]
) -> None:
    """Chosen steps count over all phases, the others within the phase."""
    due = DueCheckpoints(toy_phase(7, first_step=10), (13, 40), every)
    asked = []
    for step in range(1, 8):
        control = SimpleNamespace(should_save=False)
        due.on_step_end(None, SimpleNamespace(global_step=step), control)
        asked += [step] if control.should_save else []
    assert asked == saved
    assert 3 in due.kept


def test_only_the_newest_is_kept_beside_the_chosen_and_a_resume_takes_it(tmp_path: Path) -> None:
    whole = toy_trainer(tmp_path / "whole", [GOOD] * 6)
    whole.train()
    first = toy_trainer(tmp_path / "cut", [GOOD] * 6, callbacks=[SaveEach(), StopAfter(4)])
    first.kept_steps = lambda: {2}
    first.train()
    names = sorted(path.name for path in (tmp_path / "cut").iterdir())
    assert names == ["checkpoint-2", "checkpoint-4"]
    second = toy_trainer(tmp_path / "cut", [GOOD] * 6)
    second.train(resume_from_checkpoint=str(newest_checkpoint(tmp_path / "cut")))
    pairs = zip(whole.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


class StopAfter(SaveEach):
    """Ends a training at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_training_stop = state.global_step == self.step
        return control


CHILD = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from toy_training import *
{before}
toy_trainer(Path({folder!r}), [GOOD] * 6, callbacks=[SaveEach()]).train()
"""

DIE_AT_THE_THIRD = """
import os, signal
from vlmpipe.training import checkpoints
whole = checkpoints.{function}
calls = []
def dying(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments)
checkpoints.{function} = dying
"""


def train_in_child(folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(folder), before=before)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "left"),
    [
        # Written aside, not sealed; sealed, not yet renamed; renamed, the older one still there.
        ("seal", [ASIDE_NAME, "checkpoint-2"]),
        ("sync_tree", [ASIDE_NAME, "checkpoint-2"]),
        ("drop_older", [ASIDE_NAME, "checkpoint-2", "checkpoint-3"]),
    ],
)
def test_a_kill_during_a_checkpoint_leaves_the_one_before_it_sound(
    function: str, left: list[str], tmp_path: Path
) -> None:
    done = train_in_child(tmp_path, DIE_AT_THE_THIRD.format(function=function))
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    newest = newest_checkpoint(tmp_path)
    assert newest == tmp_path / left[-1]
    trainer = toy_trainer(tmp_path, [GOOD] * 6, callbacks=[SaveEach()])
    trainer.train(resume_from_checkpoint=str(newest))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-6"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system that holds one checkpoint and a bit."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={5 * SAVED_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root mounts a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_keeps_the_checkpoint_before_it(small_disk: Path) -> None:
    """A checkpoint takes three times the weights: the second one is cut short by the disk."""
    trainer = toy_trainer(small_disk, [GOOD] * 4, callbacks=[SaveEach()])
    with pytest.raises(StageError, match=r"after step 2 of this phase could not be written") as got:
        trainer.train()
    newest = newest_checkpoint(small_disk)
    assert newest == small_disk / "checkpoint-1"
    assert [path.name for path in small_disk.iterdir()] == ["checkpoint-1"]
    assert re.search(r"it needs about 1\.\d MiB, and 0\.\d MiB are free", got.value.message)
    assert "this phase goes on after step 1" in got.value.remedies[0]
    resumed = toy_trainer(small_disk, [GOOD] * 4)
    resumed.train(resume_from_checkpoint=str(newest))
    assert resumed.state.global_step == 4


@pytest.mark.slow
def test_a_limit_on_files_is_told_as_a_full_disk_is(tmp_path: Path) -> None:
    """A quota in place of a full disk, where nobody can mount; each writer fails in its own way."""
    before = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({SAVED_BYTES // 2},) * 2)\n"
    )
    done = train_in_child(tmp_path, before)
    assert done.returncode == 1
    assert "StageError: the checkpoint after step 1 of this phase could not be written" in (
        done.stderr
    )
    assert "this phase goes on from the start" in done.stderr
    assert not any(tmp_path.iterdir())


def test_a_fault_that_is_not_the_disk_s_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(checkpoints, "seal", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        toy_trainer(tmp_path, [GOOD], callbacks=[SaveEach()]).train()
