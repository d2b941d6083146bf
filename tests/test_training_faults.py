"""Kills, full disks and bad samples in the middle of a training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model_folders import picture
from training_runs import run_training, samples_for, tiny_config
from vlmpipe.config import Config
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.errors import StageError
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training.phase_adapters import read_index
from vlmpipe.training.watch.rows import read_rows
from vlmpipe.training.watch.task_exam import Exam

NAME = "random-qwen2_5_vl"
SETTINGS: dict[str, Any] = {
    "method": "lora",
    "curriculum": [
        {"name": "small", "max_size": [112, 112], "max_steps": 3},
        {"name": "large", "max_size": [168, 168], "max_steps": 3},
    ],
    "lora": {"r": 4, "alpha": 8, "dropout": 0.1},  # random numbers must come back too
    "checkpoint_steps": [],
    "save_steps": 1,
}

CHILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_training_faults import NAME, SETTINGS
from training_runs import run_training, tiny_config
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training import checkpoints

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

class KilledAt(SilentReporter):
    def progress(self, label, done, total, **fields):
        if label.startswith("train ") and done == {step}:
            kill()

written, whole = [], checkpoints.sync_tree
def sync_tree(folder):
    written.append(folder)
    if len(written) == {checkpoint}:
        kill()
    whole(folder)
checkpoints.sync_tree = sync_tree
run_training(NAME, Path({folder!r}), tiny_config(**SETTINGS), reporter=KilledAt())
"""


def steps_of(folder: Path) -> list[tuple[int, float]]:
    rows = read_rows(folder / "metrics.jsonl")
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def adapter_of(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "v001"
    run_training(NAME, folder, tiny_config(**SETTINGS))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "checkpoint", "saved"),
    [
        pytest.param(2, 0, "0_small/checkpoint-1", id="first phase"),
        pytest.param(5, 0, "1_large/checkpoint-1", id="second phase"),
        pytest.param(0, 2, "0_small/checkpoint-1", id="during a checkpoint"),
    ],
)
def test_a_killed_training_goes_on_to_the_same_losses_and_weights(
    step: int, checkpoint: int, saved: str, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "v001"
    code = CHILD.format(
        tests=str(Path(__file__).parent), folder=str(folder), step=step, checkpoint=checkpoint
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert (folder / "in_training" / saved).is_dir()
    seen = Steps()
    run_training(NAME, folder, tiny_config(**SETTINGS), reporter=seen)
    assert seen.steps[0] in (2, 5)  # none that was saved is done again
    assert steps_of(folder) == steps_of(whole)
    assert adapter_of(folder) == adapter_of(whole)


class Steps(SilentReporter):
    """Keeps the steps that were shown."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def progress(self, label: str, done: float, total: float | None, **fields: str) -> None:
        if label.startswith("train "):
            self.steps.append(done)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 32 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root mounts a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


class FillDisk(SilentReporter):
    """Leaves no more than 100 KB free after a step."""

    def __init__(self, folder: Path, step: int) -> None:
        self.filler = folder / "filler"
        self.step = step

    def progress(self, label: str, done: float, total: float | None, **fields: str) -> None:
        if label.startswith("train ") and done == self.step:
            with self.filler.open("wb", buffering=0) as stream, suppress(OSError):
                while True:
                    stream.write(bytes(4096))
            os.truncate(self.filler, self.filler.stat().st_size - 100_000)


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_the_checkpoint_and_the_training_goes_on_from_it(
    small_disk: Path, whole: Path
) -> None:
    folder, config = small_disk / "v001", tiny_config(**SETTINGS)
    reporter = FillDisk(small_disk, 2)
    with pytest.raises(StageError, match="could not be written") as caught:
        run_training(NAME, folder, config, reporter=reporter)
    assert "goes on after step 1" in caught.value.remedies[0]
    kept = {path.name for path in (folder / "in_training" / "0_small").iterdir()}
    assert kept == {"checkpoint-1", "plan.json"}
    reporter.filler.unlink()
    run_training(NAME, folder, config)
    assert steps_of(folder) == steps_of(whole)
    assert adapter_of(folder) == adapter_of(whole)


class RottingImage(Image.Image):
    """A file that is damaged once the training has begun."""

    rotten = False

    def load(self) -> Any:
        if RottingImage.rotten:
            raise OSError("image file is truncated")
        return super().load()


class Rot(SilentReporter):
    """Damages the file after a step."""

    def progress(self, label: str, done: float, total: float | None, **fields: str) -> None:
        RottingImage.rotten = RottingImage.rotten or label.startswith("train ")


def rotting_sample() -> Sample:
    image = picture(seed=3)
    image.__class__ = RottingImage
    user = Message("user", (image, "Convert the table in the image to HTML."))
    answer = Message("assistant", ("<table><tr><td>003</td></tr></table>",))
    return Sample("s3", (user, answer), "table", origin="tables/train.jsonl:17")


@pytest.mark.slow
def test_a_bad_sample_in_mid_epoch_is_told_by_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its own error, whatever loop it goes through: with its remedies, without a trace."""
    monkeypatch.setattr(RottingImage, "rotten", False)
    samples = [*samples_for(NAME, 3), rotting_sample()]
    settings = {**SETTINGS, "gradient_accumulation": 1}
    with pytest.raises(StageError) as caught:
        run_training(NAME, tmp_path / "v001", tiny_config(**settings), samples, reporter=Rot())
    told = str(caught.value)
    assert "tables/train.jsonl:17" in told
    assert "image file is truncated" in told
    assert caught.value.remedies
    assert "Traceback" not in told
    assert steps_of(tmp_path / "v001")


class BadLoss(SilentReporter):
    """Keeps what people are told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_left_out_and_told_with_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the real trainer; what the guard does to weights is shown in test_training_watch_*."""
    from vlmpipe.training.phase_trainer import PhaseTrainer

    plain, calls = PhaseTrainer.compute_loss, []

    def spoilt(self: Any, *args: Any, **given: Any) -> Any:
        calls.append(1)
        loss = plain(self, *args, **given)
        return loss * float("nan") if len(calls) == 3 else loss

    monkeypatch.setattr(PhaseTrainer, "compute_loss", spoilt)
    reporter, folder = BadLoss(), tmp_path / "v001"
    outcome = run_training(NAME, folder, tiny_config(**SETTINGS), reporter=reporter)
    rows = read_rows(folder / "metrics.jsonl")
    [bad] = [row for row in rows if row.get("event") == "bad_step"]
    assert (bad["step"], bad["what"]) == (2, "the loss is nan")
    assert [sample["origin"][:5] for sample in bad["samples"]] == ["test:"]  # one micro-batch
    assert [step for step, _ in steps_of(folder)] == [1, 3, 4, 5, 6]
    assert any(note.startswith("left out step 2: the loss is nan") for note in reporter.notes)
    assert outcome.metrics["train/steps"] == 5
    row = next(row for row in rows if "loss" in row)
    assert row["tokens_per_second"] > 0
    assert 0 < row["mfu"] <= row["hfu"]
    assert 0 <= row["token_accuracy"] <= 1


@pytest.mark.slow
def test_early_stopping_hands_on_the_best_weights_and_optimiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Best after step 2 of the first phase, ended after step 4: as if it had had two steps."""
    scores = {1: 0.1, 2: 0.5, 3: 0.4, 4: 0.3}
    seen = Steps()

    def scripted(*_: Any, **__: Any) -> Any:
        return lambda: Exam("teds", 1, scores.get(len(seen.steps) + 1, 0.0), 1.0)

    monkeypatch.setattr("vlmpipe.training.watchmen.task_exam", scripted)
    stopping = {"patience": 2, "every_steps": 1, "samples": 1}
    run_training(NAME, tmp_path / "v001", stopped(9, early_stopping=stopping), reporter=seen)
    rows = read_rows(tmp_path / "v001" / "metrics.jsonl")
    [ended] = [row for row in rows if row.get("event") == "stopped_early"]
    assert (ended["step"], ended["best_step"]) == (4, 2)
    assert [step for step, _ in steps_of(tmp_path / "v001")] == [1, 2, 3, 4, 10]
    run_training(NAME, tmp_path / "short", stopped(2))
    evaluated = [row["step"] for row in rows if "eval_loss" in row]
    assert evaluated == [2, 10], "the steps whose weights were evaluated"
    assert [phase.last_step for phase in read_index(tmp_path / "v001")] == [2, 10]
    small = "phases/0_small/adapter_model.safetensors"
    assert (tmp_path / "v001" / small).read_bytes() == (tmp_path / "short" / small).read_bytes()
    assert adapter_of(tmp_path / "v001") == adapter_of(tmp_path / "short")


def stopped(steps: int, **watch: Any) -> Config:
    """A first phase of so many steps, then one step of another."""
    phases = [{**SETTINGS["curriculum"][0], "max_steps": steps}]
    phases += [{**SETTINGS["curriculum"][1], "max_steps": 1}]
    return tiny_config(
        **{**SETTINGS, "curriculum": phases, "lr_scheduler": "constant", "save_steps": None},
        watch=watch,
    )
