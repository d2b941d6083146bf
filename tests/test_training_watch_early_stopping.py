"""Early stopping on the task metric, and an exam that the training does not notice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model_folders import encoder_of
from toy_training import Notes, toy_phase
from training_runs import base_of, samples_for, tiny_config
from vlmpipe.config.train import EarlyStoppingSection
from vlmpipe.errors import StageError
from vlmpipe.models.wrapping import unwrapped
from vlmpipe.training.batching.collator import pad_batch
from vlmpipe.training.evaluate import mean_loss
from vlmpipe.training.loss.supervised_head import install_supervised_head
from vlmpipe.training.run import load_trainable
from vlmpipe.training.watch.early_stopping import EarlyStopping
from vlmpipe.training.watch.rows import forget_rows_after, handed_on_step, read_rows
from vlmpipe.training.watch.task_exam import Exam, refuse_without_heldout, task_exam

PHASE = toy_phase(100, first_step=10)


def stopping(
    path: Path, values: Iterator[float | tuple[float, float]], **settings: Any
) -> tuple[EarlyStopping, Notes]:
    """`values` are of the metric, alone where the loss stays as it is."""
    section = EarlyStoppingSection(**{"patience": 2, "every_steps": 5, **settings})
    notes = Notes()

    def exam() -> Exam:
        measured = next(values)
        value, loss = measured if isinstance(measured, tuple) else (measured, 1.0)
        return Exam("teds", 2, value, loss)

    return EarlyStopping(PHASE, section, exam, path, notes), notes


def train(callback: EarlyStopping, steps: Sequence[int]) -> tuple[list[int], int | None]:
    """Steps at which a checkpoint was asked for, and the step at which the phase ended."""
    saved = []
    for step in steps:
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        callback.on_step_end(None, SimpleNamespace(global_step=step), control)
        saved += [step] if control.should_save else []
        if control.should_training_stop:
            return saved, step
    return saved, None


def test_a_phase_ends_after_patience_and_its_best_step_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    callback, notes = stopping(path, iter([0.1, 0.4, 0.3, 0.5, 0.5, 0.2, 0.9]))
    assert train(callback, range(1, 101)) == ([5, 10, 20], 30)
    assert callback.stopped
    assert callback.best_step == 20
    rows = read_rows(path)
    examined = [row for row in rows if row["event"] == "examined"]
    assert [(row["step"], row["value"], row["best"]) for row in examined[:3]] == [
        (15, 0.1, True),
        (20, 0.4, True),
        (25, 0.3, False),
    ]
    assert rows[-1]["event"] == "stopped_early"
    assert (rows[-1]["step"], rows[-1]["best_step"], rows[-1]["value"]) == (40, 30, 0.5)
    assert notes.notes[2:4] == [
        "step 25: teds 0.3000, loss 1.0000 on 2 held-out samples, no better than step 20"
        " (0.4000, loss 1.0000)",
        "step 30: teds 0.5000, loss 1.0000 on 2 held-out samples, the best so far",
    ]
    assert notes.notes[-1] == (
        "phase toy ends at step 40, with the weights of step 30: the last 2 measurements were no"
        " better, neither by teds nor, where that is the same, by the loss"
    )
    assert handed_on_step(path, PHASE) == 30


def test_a_metric_at_its_floor_is_no_standstill_while_the_loss_falls(tmp_path: Path) -> None:
    at_the_floor = [(0.0, 8.6), (0.0, 7.2), (0.0, 5.9), (0.0, 6.0), (0.1, 6.1)]
    callback, _ = stopping(tmp_path / "m", iter(at_the_floor))
    assert train(callback, range(1, 26)) == ([5, 10, 15, 25], None)
    assert callback.best_step == 25, "the metric counts before the loss"


def test_a_metric_and_a_loss_that_both_stand_still_end_the_phase(tmp_path: Path) -> None:
    callback, notes = stopping(tmp_path / "m", iter([(0.0, 8.0), (0.0, 8.1)]), patience=1)
    assert train(callback, range(1, 101)) == ([5], 10)
    assert "the last measurement was no better" in notes.notes[-1]


def test_a_lower_loss_does_not_make_up_for_a_lower_metric(tmp_path: Path) -> None:
    callback, _ = stopping(tmp_path / "m", iter([(0.5, 3.0), (0.4, 1.0), (0.4, 0.5)]))
    assert train(callback, range(1, 101)) == ([5], 15)


def test_a_loss_that_is_no_number_is_never_the_better_one(tmp_path: Path) -> None:
    path, nan = tmp_path / "m", float("nan")
    callback, _ = stopping(path, iter([(0.0, nan), (0.0, 4.0), (0.0, nan)]))
    assert train(callback, range(1, 16)) == ([5, 10], None)
    assert ["heldout_loss" in row for row in read_rows(path)] == [False, True, False]


def test_a_gain_must_be_larger_than_min_gain(tmp_path: Path) -> None:
    callback, _ = stopping(tmp_path / "m", iter([0.5, 0.55, 0.6]), min_gain=0.1)
    assert train(callback, range(1, 101)) == ([5], 15)


def test_without_patience_nothing_is_measured(tmp_path: Path) -> None:
    callback, _ = stopping(tmp_path / "m", iter([]), patience=None)
    assert train(callback, range(1, 101)) == ([], None)


def test_a_killed_training_ends_where_the_whole_one_does(tmp_path: Path) -> None:
    """Killed after step 27; its last checkpoint is of step 20, and later rows are forgotten."""
    values = [0.4, (0.4, 0.9), 0.3, (0.4, 0.8), (0.4, 0.8), 0.2]
    path = tmp_path / "cut"
    first, _ = stopping(path, iter(values))
    assert train(first, range(1, 28)) == ([5, 10, 20], None)
    forget_rows_after(path, PHASE.first_step + 20)
    second, _ = stopping(path, iter(values[4:]))
    assert second.best_step == 20
    assert train(second, range(21, 101)) == ([], 30)
    whole, _ = stopping(tmp_path / "whole", iter(values))
    train(whole, range(1, 101))
    assert read_rows(path) == read_rows(tmp_path / "whole")


def losses(name: str, exam_between: bool) -> list[float]:
    """Of three steps with dropout, so that each random number counts."""
    settings = tiny_config(method="lora", lora={"r": 4, "alpha": 8, "dropout": 0.2})
    model, _ = load_trainable(settings, base_of(name), "float32")
    encoder, samples = encoder_of(name), samples_for(name, 2)
    batch = pad_batch([encoder.encode_sample(each.messages) for each in samples], 0)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    install_supervised_head(unwrapped(model))

    def heldout_loss() -> float:
        grid = encoder.contract.grid
        return mean_loss(model, samples, encoder, "assistant_after_image", grid)

    exam = task_exam(model, encoder, samples, loss=heldout_loss, max_new_tokens=8)
    torch.manual_seed(1)
    found = []
    model.train()
    for _ in range(3):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
        if exam_between:
            assert 0 <= exam().value <= 1
            assert exam().loss > 0
    return found


@pytest.mark.slow
def test_an_exam_changes_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """And would change them if it did not take care."""
    name = "random-qwen2_5_vl"
    expected = losses(name, exam_between=False)
    assert losses(name, exam_between=True) == expected
    monkeypatch.setattr("vlmpipe.training.watch.task_exam.unnoticed", lambda _: nullcontext())
    assert losses(name, exam_between=True) != expected


def test_early_stopping_without_samples_is_refused() -> None:
    refuse_without_heldout(EarlyStoppingSection(), 0)
    refuse_without_heldout(EarlyStoppingSection(patience=2), 1)
    with pytest.raises(StageError, match="there are none") as caught:
        refuse_without_heldout(EarlyStoppingSection(patience=2), 0)
    assert any("patience=null" in hint for hint in caught.value.remedies)
