"""The training benchmark's own arithmetic, and that both sides are given the same to learn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    """The benchmark's files name each other as programs beside one another do."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def run_of(**changes: Any) -> Any:
    from train_runs import Run

    fields = {
        "side": "ours",
        "settings": {"batch": 1},
        "samples": 96,
        "training_s": 48.0,
        "ready_s": 60.0,
        "epochs_s": [24.0, 12.0, 12.0],
        "loaded_bytes": 400,
        "peak_bytes": 1000,
        "process_peak_bytes": 1500,
        "device_peak_bytes": 0,
        "losses": [9.0],
        "facts": {},
    }
    return Run(**{**fields, **changes})  # type: ignore[arg-type]


def losses_of(ours: float) -> list[dict[str, float]]:
    equal = {"transformers": 8.0, "trl": 8.0, "ours": 8.0}
    return [equal, {**equal, "ours": ours}]


def test_the_models_shares_are_the_3bs_within_a_few_per_cent() -> None:
    from train_model import SHAPES, costs

    real, small = costs(SHAPES["3b"]).shares, costs(SHAPES["small"]).shares
    assert all(abs(small[part] / real[part] - 1) < 0.05 for part in real)


def test_costs_are_the_weights_of_the_linear_layers() -> None:
    import torch
    from train_model import SHAPES, costs, model_config
    from transformers import Qwen2_5_VLForConditionalGeneration

    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(model_config(SHAPES["tiny"]))
    weights = {
        name: module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv3d))
    }
    tower = {name: count for name, count in weights.items() if ".visual." in name}
    merger = sum(count for name, count in tower.items() if ".merger." in name)
    counted = costs(SHAPES["tiny"])
    assert counted.tower == 4 * (sum(tower.values()) - merger) + merger
    assert counted.layers == sum(n for name, n in weights.items() if ".language_model." in name)
    assert counted.head == weights["lm_head"]


def test_lora_takes_four_flops_a_weight_and_token() -> None:
    from train_model import SHAPES, costs, lora_flops
    from train_process import Recipe

    counted = costs(SHAPES["tiny"])
    without_adapter = 4 * counted.layers * 100 + 4 * counted.head * 40
    found = lora_flops(SHAPES["tiny"], Recipe(lora_r=1), [(60, 30), (40, 10)])
    assert without_adapter < found < 1.1 * without_adapter


def test_epochs_share_the_time_by_steps_and_the_first_has_the_fill() -> None:
    from train_runs import epoch_seconds

    spans = [(10.0, 14.0), (20.0, 32.0)]  # the fill, 6 s of proofs, the loop
    assert epoch_seconds(spans, [22.0, 24.0, 26.0, 28.0, 30.0, 31.0], 3) == [8.0, 4.0, 3.0]


def test_a_step_of_two_epochs_is_divided() -> None:
    from train_runs import epoch_seconds

    assert epoch_seconds([(0.0, 9.0)], [2.0, 6.0, 8.0], 2) == [4.0, 4.0]


def test_the_peak_is_that_of_the_training_alone() -> None:
    from train_process import SideResult
    from train_runs import watched

    result = SideResult(
        side="ours",
        settings={},
        samples=8,
        steps=1,
        losses=[1.0],
        loaded_at=1.0,
        loaded_bytes=300,
        spans=[(2.0, 3.0), (5.0, 6.0)],
        ready_s=5.0,
        step_ends=[6.0],
    )
    run = watched(result, 1, [(1.0, 300), (2.5, 700), (4.0, 2000), (5.5, 900)])
    assert (run.risen_bytes, run.peak_bytes, run.process_peak_bytes) == (600, 900, 2000)
    assert run.training_s == 2.0


def test_a_result_survives_its_way_between_processes(capsys: pytest.CaptureFixture[str]) -> None:
    from train_process import Clock, emit, read_result

    clock = Clock()
    clock.model_is_loaded()
    clock.timed(lambda: None)()
    result = clock.result("trl", {"batch": 2}, 8, {})
    emit(result)
    assert read_result(capsys.readouterr().out) == result


def test_figures_say_when_a_goal_is_missed() -> None:
    from train_figures import figures_of

    slow = replace(run_of(side="trl"), training_s=96.0, ready_s=96.0, peak_bytes=1200)
    figures = figures_of([(slow, run_of())], losses_of(8.0), 0.1)
    assert figures["samples/s"]["value"] == 2.0
    assert figures["samples/s"]["met"]
    assert figures["peak memory over the loaded model"]["value"] == 0.75
    assert not figures["peak memory over the loaded model"]["met"]
    assert figures["second epoch, disk cache"]["value"] == 2.0
    assert figures["MFU of ours"]["value"] == pytest.approx(0.2)
    assert all(figures[name]["met"] for name in figures if "fp32 loss" in name)


def test_speed_counts_the_samples_that_were_trained() -> None:
    from train_figures import figures_of, gpu_figures, parts_table

    pairs = [(run_of(side="trl"), run_of(samples=120))]  # a plan's last step is filled up
    assert figures_of(pairs, losses_of(8.0), 0.1)["samples/s"]["value"] == 1.25
    found = gpu_figures(pairs, 2000.0, 0.1, 0.45)
    assert found["tokens/s"]["value"] == 1.25
    assert found["tokens/s of ours"]["value"] == 5000.0
    assert not found["MFU of ours"]["met"]
    rows = {row["part"]: row for row in parts_table({"none": run_of()}, pairs)}
    assert rows["all"]["over_trl"] == rows["all"]["over_none"] == 1.25


def test_one_sample_with_another_loss_misses_the_goal() -> None:
    from train_figures import figures_of

    figures = figures_of([(run_of(side="trl"), run_of())], losses_of(8.1), 0.1)
    assert not any(figures[name]["met"] for name in figures if "fp32 loss" in name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from train_process import Recipe
    from train_setting import prepare

    folder = tmp_path_factory.mktemp("bench")
    prepare(folder, Recipe(), 3, "tiny", "tiny")
    return folder


def test_the_samples_are_the_same_each_time(folder: Path) -> None:
    from train_data import WORKLOADS, draw_pages, sample_lengths

    from vlmpipe.models.loading import load_tokenizer

    tokenizer = load_tokenizer(folder / "model")
    pages = draw_pages(9, tokenizer, WORKLOADS["mixed"])
    assert pages == draw_pages(9, tokenizer, WORKLOADS["mixed"])
    assert len({(page.height, page.width) for page in pages}) == 3
    answers = [supervised for _, supervised in sample_lengths(pages, tokenizer)]
    assert all(45 <= count <= 600 for count in answers)


@pytest.mark.slow
def test_both_sides_learn_the_same_tokens_and_a_shifted_label_is_seen(folder: Path) -> None:
    import train_equal

    found = train_equal.measure(folder)
    assert found["unequal"] == {}
    assert all(abs(each["ours"] / each["trl"] - 1) < 1e-4 for each in found["losses"])
    encoder = train_equal.encoder_for(folder / "model")
    from vlmpipe.data.store import SplitSamples

    sample = SplitSamples(folder / "data/train.parquet")[0]
    batch = train_equal.batch_of(encoder, sample)
    breaks = list(encoder.tokenizer(train_equal.BREAK)["input_ids"])
    theirs = {name: value[:, : -len(breaks)] for name, value in batch.items() if value.dim() == 2}
    theirs |= {name: batch[name] for name in ("pixel_values", "image_grid_thw")}
    assert train_equal.differences(batch, theirs, breaks) == []
    shifted = {**theirs, "labels": theirs["labels"].roll(1, dims=1)}
    assert train_equal.differences(batch, shifted, breaks) == ["labels"]


def test_without_a_gpu_the_gpu_benchmark_says_so_and_ends_well() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "train_gpu.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "no CUDA device" in done.stdout
