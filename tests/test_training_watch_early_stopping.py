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
from vlmpipe.training.batching.collator import pad_batch
from vlmpipe.training.run import load_trainable
from vlmpipe.training.watch.early_stopping import EarlyStopping
from vlmpipe.training.watch.rows import forget_rows_after, read_rows
from vlmpipe.training.watch.task_exam import task_exam

PHASE = toy_phase(100, first_step=10)


def stopping(path: Path, values: Iterator[float], **settings: Any) -> tuple[EarlyStopping, Notes]:
    section = EarlyStoppingSection(**{"patience": 2, "every_steps": 5, **settings})
    notes = Notes()
    return EarlyStopping(PHASE, section, lambda: next(values), path, notes), notes


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
    assert "its weights are taken back" in notes.notes[-1]


def test_a_gain_must_be_larger_than_min_gain(tmp_path: Path) -> None:
    callback, _ = stopping(tmp_path / "m", iter([0.5, 0.55, 0.6]), min_gain=0.1)
    assert train(callback, range(1, 101)) == ([5], 15)


def test_without_patience_nothing_is_measured(tmp_path: Path) -> None:
    callback, _ = stopping(tmp_path / "m", iter([]), patience=None)
    assert train(callback, range(1, 101)) == ([], None)


def test_a_killed_training_ends_where_the_whole_one_does(tmp_path: Path) -> None:
    """Killed after step 27; its last checkpoint is of step 20, and later rows are forgotten."""
    values = [0.1, 0.4, 0.3, 0.5, 0.5, 0.2]
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
    exam = task_exam(model, encoder, samples, max_new_tokens=8)
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
            assert 0 <= exam() <= 1
    return found


@pytest.mark.slow
def test_an_exam_changes_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """And would change them if it did not take care."""
    name = "random-qwen2_5_vl"
    expected = losses(name, exam_between=False)
    assert losses(name, exam_between=True) == expected
    monkeypatch.setattr("vlmpipe.training.watch.task_exam.unnoticed", lambda _: nullcontext())
    assert losses(name, exam_between=True) != expected


def test_an_exam_without_samples_is_refused() -> None:
    with pytest.raises(StageError, match="there are none") as caught:
        task_exam(None, encoder_of("random-qwen3"), [], max_new_tokens=8)
    assert any("patience=null" in hint for hint in caught.value.remedies)
