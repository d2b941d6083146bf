"""Resize kernels drawn by lot in training: what they change, and that a resume draws the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from test_training_session import SignalAt, steps_of
from training_runs import run_training, tiny_config
from vlmpipe.config import Config
from vlmpipe.training.watch.rows import read_rows

MODEL = "random-qwen2_5_vl"
KERNELS = ["bicubic", "llama_cpp", "bilinear"]


def config_with(kernels: list[str]) -> Config:
    """Eight steps of one sample each, over four samples: two epochs."""
    return tiny_config(
        method="lora",
        curriculum=[{"name": "only", "max_size": [112, 112], "max_steps": 8}],
        gradient_accumulation=1,
        checkpoint_steps=[],
        augment={"resize_kernels": kernels},
    )


def losses_of(folder: Path) -> list[float]:
    return [row["loss"] for row in steps_of(folder)]


@pytest.mark.slow
def test_a_training_stopped_in_mid_epoch_goes_on_with_the_kernels_of_that_epoch(
    tmp_path: Path,
) -> None:
    run_training(MODEL, tmp_path / "whole", config_with(KERNELS))
    with pytest.raises(KeyboardInterrupt):
        run_training(MODEL, tmp_path / "cut", config_with(KERNELS), reporter=SignalAt(5))
    run_training(MODEL, tmp_path / "cut", config_with(KERNELS))
    assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")
    adapters = [
        load_file(str(tmp_path / run / "adapter/adapter_model.safetensors"))
        for run in ("whole", "cut")
    ]
    assert all(torch.equal(adapters[1][key], value) for key, value in adapters[0].items())


@pytest.mark.slow
def test_kernels_change_the_training_and_never_the_held_out_images(tmp_path: Path) -> None:
    """The one held-out sample at learning rate 0 has the loss of an untouched image."""
    for name, kernels in (("plain", ["bicubic"]), ("drawn", ["llama_cpp"])):
        config = config_with(kernels)
        still = config.train.model_copy(update={"learning_rate": 1e-12})
        run_training(MODEL, tmp_path / name, config.model_copy(update={"train": still}))
    assert losses_of(tmp_path / "plain") != losses_of(tmp_path / "drawn")
    plain, drawn = (evaluated(tmp_path / name) for name in ("plain", "drawn"))
    assert plain == pytest.approx(drawn, rel=1e-6)


def evaluated(folder: Path) -> float:
    rows = read_rows(folder / "metrics.jsonl")
    return next(float(row["eval_loss"]) for row in rows if "eval_loss" in row)
