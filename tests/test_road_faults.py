"""What a run does when it is killed, when another is in its way, when files are bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_files import picture, turns, write_lines
from road import Finished, Road, kill_group, kill_when, wait_until

pytestmark = pytest.mark.slow

LONG_TRAINING = ("train.max_steps=20", "train.checkpoint_steps=[3]")


def appeared(folder: Path, pattern: str) -> Callable[[], bool]:
    return lambda: any(folder.glob(pattern))


def steps_of(metrics: Path) -> list[str]:
    """The lines of training steps, as they stand in the file."""
    lines = metrics.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if '"loss"' in line]


def test_a_killed_run_goes_on_where_it_was(
    finished_run: tuple[Road, Finished], tmp_path: Path
) -> None:
    road = finished_run[0].copy(tmp_path)
    command = ("run-all", *LONG_TRAINING, "--to", "convert")
    published = road.published()

    checkpoint = appeared(
        road.folder, "2_train/*.partial/in_training/*/checkpoint-3/trainer_state.json"
    )
    kill_when(road.start(*command), checkpoint)
    [left] = road.folder.glob("2_train/*.partial/metrics.jsonl")
    before_checkpoint = steps_of(left)[:3]
    assert road.versions("train") == ["v001", "v002.partial"]
    published = unharmed(road, published)

    kill_when(road.start(*command), appeared(road.folder, "4_merge/*.partial/model/*"))
    steps = steps_of(road.stage("train") / "metrics.jsonl")
    assert [json.loads(line)["step"] for line in steps] == list(range(1, 21))
    assert steps[:3] == before_checkpoint, "the steps before the checkpoint were trained again"
    assert road.versions("merge") == ["v001", "v002.partial"]
    published = unharmed(road, published)

    kill_when(road.start(*command), appeared(road.folder, "5_convert/*.partial/gguf/*"))
    assert road.versions("convert") == ["v001", "v002.partial"]
    published = unharmed(road, published)

    last = road.run(*command, "--json").json
    assert [row["stage"] for row in last["stages"] if not row["cached"]] == ["check", "convert"]
    assert all(road.versions(name) == ["v001", "v002"] for name in ("train", "merge", "convert"))
    unharmed(road, published)


def unharmed(road: Road, before: dict[str, bytes]) -> dict[str, bytes]:
    """The manifests there are now: those from before among them, every file as it was published."""
    road.run("status", *LONG_TRAINING, "--verify")
    now = road.published()
    assert {name: now.get(name) for name in before} == before
    return now


def test_a_second_command_on_one_run_is_told_who_holds_it(tmp_path: Path) -> None:
    road = Road(tmp_path)
    first = road.start("run-all")
    try:
        wait_until(first, (road.folder / ".lock.holder.json").is_file)
        refused = road.run("run-all", code=8)
    finally:
        kill_group(first)
    assert f"process {first.pid} " in refused.stderr
    assert "`vlmpipe run-all -c" in refused.stderr


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_changed_adapter_is_refused_by_name_and_made_again_as_advised(
    finished_run: tuple[Road, Finished], tmp_path: Path
) -> None:
    road = finished_run[0].copy(tmp_path)
    flip_a_byte(road.stage("train") / "adapter" / "adapter_model.safetensors")
    for command in (["status"], ["merge", "--force"], ["run-all"]):
        refused = road.run(*command, code=4)
        assert "2_train/v001/adapter/adapter_model.safetensors: sha256" in refused.stderr
        assert "--force train" in refused.stderr
    road.run("run-all", "--force", "train")
    road.run("status", "--verify")


def test_a_changed_base_model_is_refused_by_name(
    finished_run: tuple[Road, Finished], tmp_path: Path
) -> None:
    road = finished_run[0].copy(tmp_path)
    flip_a_byte(road.stage("setup") / "model" / "model.safetensors")
    refused = road.run("train", "--force", code=4)
    assert "1_setup/v001/model/model.safetensors: sha256" in refused.stderr
    assert road.versions("train") == ["v001"]


def test_a_bad_sample_is_named_by_line_and_left_out_on_request(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / f"{number}.png", colour=(50 * number, 90, 90), side=80)
    whole = picture(tmp_path / "whole.jpg", side=80).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    names = ["0.png", "1.png", "cut.jpg", "2.png", "3.png"]
    lines = [{"messages": turns(name, answer=f"it says {name}")} for name in names]
    file = write_lines(tmp_path / "samples.jsonl", *lines)
    sources = f"data.sources={json.dumps([{'path': str(file)}])}"
    road = Road(tmp_path)

    refused = road.run("run-all", sources, code=5)
    assert f"{file}:3: " in refused.stderr
    assert "cut.jpg" in refused.stderr
    assert "data.on_bad_sample=skip" in refused.stderr
    assert road.versions("setup") == ["v001.partial"]

    road.run("run-all", sources, "data.on_bad_sample=skip", "--to", "setup")
    metrics = road.manifest("setup")["metrics"]
    assert metrics["data/skipped_samples"] == 1
    assert metrics["data/train_samples"] + metrics["data/heldout_samples"] == 4
