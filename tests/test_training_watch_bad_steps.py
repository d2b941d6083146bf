"""Steps whose loss or gradient is no number: left out bit for bit, counted, told, fatal at last."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from toy_training import BAD_GRADIENT, BAD_LOSS, GOOD, Notes, SaveEach, toy_trainer
from vlmpipe.errors import StageError
from vlmpipe.training.checkpoints import newest_checkpoint
from vlmpipe.training.watch.rows import read_rows


class States(TrainerCallback):
    """Weights, optimiser state, schedule and loss after each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.optimizer: list[dict[str, Any]] = []
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.weights.append(copy.deepcopy(given["model"].state_dict()))
        self.optimizer.append(copy.deepcopy(given["optimizer"].state_dict()["state"]))
        self.rates.append(given["lr_scheduler"].get_last_lr()[0])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return torch.equal(torch.as_tensor(left), torch.as_tensor(right))


@pytest.mark.parametrize(
    ("fault", "what"),
    [(BAD_LOSS, "the loss is nan"), (BAD_GRADIENT, "the gradient's norm is nan")],
)
def test_a_bad_step_changes_nothing_but_the_schedule_and_is_told_with_its_samples(
    fault: float, what: str, tmp_path: Path
) -> None:
    states, reporter = States(), Notes()
    faults = [GOOD, GOOD, GOOD, fault, GOOD, GOOD, GOOD, GOOD]
    trainer = toy_trainer(tmp_path, faults, accumulation=2, callbacks=[states], reporter=reporter)
    trainer.train()
    assert same(states.weights[1], states.weights[0])
    assert same(states.optimizer[1], states.optimizer[0])
    assert states.rates == sorted(states.rates, reverse=True)
    assert len(set(states.rates)) == 4
    assert not same(states.weights[2], states.weights[1])
    assert not same(states.optimizer[2], states.optimizer[1])
    assert [math.isfinite(loss) for loss in states.losses] == [True, fault != BAD_LOSS, True, True]
    [row] = read_rows(tmp_path / "metrics.jsonl")
    told = [{"id": f"s{place}", "origin": f"data.jsonl:{place + 1}"} for place in (2, 3)]
    culprits = told[1:] if fault == BAD_LOSS else told  # a gradient is of the whole step
    assert row == {
        "step": 12, "phase": "toy", "event": "bad_step", "what": what, "samples": culprits
    }  # fmt: skip
    assert reporter.notes[0].startswith(f"left out step 12: {what}; samples")


def test_without_the_guard_the_weights_would_be_lost(tmp_path: Path) -> None:
    """What the guard is for: the subject of the test above, broken on purpose."""
    trainer = toy_trainer(tmp_path, [GOOD, BAD_GRADIENT, GOOD])
    trainer.guard.judge = lambda *_: False  # type: ignore[method-assign]
    trainer.train()
    assert not all(weight.isfinite().all() for weight in trainer.model.parameters())


def test_more_in_a_row_than_allowed_stop_the_training_with_every_way_out(tmp_path: Path) -> None:
    faults = [GOOD, BAD_LOSS, GOOD, BAD_LOSS, BAD_GRADIENT, BAD_LOSS, GOOD]
    trainer = toy_trainer(tmp_path, faults, callbacks=[SaveEach()], max_bad_steps=2)
    with pytest.raises(StageError, match=r"3 steps in a row were no number at step 16") as caught:
        trainer.train()
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        "step 14: the loss is nan",
        "step 15: the gradient's norm is nan",
        "step 16: the loss is nan",
    ]
    assert "data.jsonl:6" in caught.value.problems[-1]
    hints = " ".join(caught.value.remedies)
    for key in ("train.learning_rate=5e-05", "model.dtype=float32", "train.watch.max_bad_steps=12"):
        assert key in hints
    good = newest_checkpoint(tmp_path)
    assert good is not None
    assert good.name == "checkpoint-5"
    bad_rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if row["event"] == "bad_step"]
    assert [row["step"] for row in bad_rows] == [12, 14, 15, 16]


def test_none_allowed_stops_at_the_first(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, [BAD_LOSS, GOOD], max_bad_steps=0)
    with pytest.raises(StageError, match=r"the loss or the gradient was no number at step 11"):
        trainer.train()


def test_a_resumed_training_counts_on(tmp_path: Path) -> None:
    """Stopped after two of three bad steps in a row, as the rows say."""
    toy_trainer(tmp_path, [BAD_LOSS, BAD_LOSS], max_bad_steps=2).train()
    resumed = toy_trainer(tmp_path, [BAD_LOSS], max_bad_steps=2)
    with pytest.raises(StageError, match=r"3 steps in a row"):
        resumed.train()


def test_a_search_for_the_loss_scale_is_no_bad_step(tmp_path: Path) -> None:
    """fp16: the scaler skips the step by itself and halves the scale, which is how it starts."""
    guard = toy_trainer(tmp_path, [GOOD]).guard
    assert not guard.judge(0, [1.0], math.inf, 65536.0)
    assert guard.judge(0, [1.0], math.inf, 1.0)
    assert guard.judge(0, [math.nan], 1.0, 65536.0)
    assert guard.judge(0, [1.0], math.inf, None)


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from toy_training import *

rank = int(__import__("os").environ["RANK"])
folder = Path({folder!r})
# Micro-batches 2 and 3 are step 2's: process 1's loss alone is no number, its gradient is one.
trainer = toy_trainer(
    folder, [GOOD, GOOD, GOOD, BAD_LOSS, GOOD, GOOD], callbacks=[SaveEach()], processes=2,
    is_main=rank == 0,
)
trainer.train()
weights = torch.cat([weight.flatten() for weight in trainer.model.state_dict().values()])
torch.save(weights, folder / f"weights-{{rank}}.pt")
"""


@pytest.mark.slow
def test_two_processes_leave_out_the_same_step(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        TWO_PROCESSES.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "run"))
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run([sys.executable, *launch], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / "run" / f"weights-{rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second)
    [row] = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [sample["id"] for sample in row["samples"]] == ["s3"]
    newest = newest_checkpoint(tmp_path / "run")
    assert newest is not None
    assert newest.name == "checkpoint-3"
    assert sorted(path.name for path in newest.glob("rng_state*")) == [
        "rng_state_0.pth",
        "rng_state_1.pth",
    ]
