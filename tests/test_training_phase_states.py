"""A phase whose settings did not change is not trained again, and one that did is."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import save

from model_folders import contract_of
from training_runs import PHASES, base_of, run_training, samples_for, tiny_config
from vlmpipe.config import Config
from vlmpipe.config.train import TrainConfig
from vlmpipe.models.families import FAMILIES
from vlmpipe.pipeline.files import sha256_of
from vlmpipe.training import phase_fingerprints as fingerprints
from vlmpipe.training.checkpoints import final_checkpoint
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.phase_adapters import keep_adapter
from vlmpipe.training.phase_fingerprints import evaluated_on, phase_fingerprints
from vlmpipe.training.phase_states import find_reusable, keep_phase_state, take_over
from vlmpipe.training.preparation import Preparation, TrainingData, data_digest, prepare
from vlmpipe.training.watch.rows import append_row, read_rows

VISION = "random-qwen2_5_vl"


def prepared(config: Config, processes: int = 1) -> Preparation:
    samples = samples_for(VISION)
    data = TrainingData(train=samples, heldout=samples[:1], weights=[1.0] * len(samples))
    return prepare(config, base_of(VISION), data, processes)


def fingerprints_of(config: Config, processes: int = 1, **facts: str) -> list[str]:
    known = {"base": "b", "data": "d", "dtype": "float32", **facts}
    return phase_fingerprints(config, prepared(config, processes), **known)


def with_phase(number: int, **changes: Any) -> dict[str, Any]:
    phases = copy.deepcopy(PHASES)
    phases[number] |= changes
    return {"curriculum": phases}


def unchanged(before: Sequence[str], now: Sequence[str]) -> list[bool]:
    return [one == other for one, other in zip(before, now, strict=False)]


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        (with_phase(1, learning_rate_scale=0.5), [True, False]),
        (with_phase(1, max_size=[448, 448]), [True, False]),
        (with_phase(1, max_steps=3), [True, False]),
        (with_phase(1, name="larger"), [True, False]),
        (with_phase(0, learning_rate_scale=0.5), [False, False]),
        (with_phase(0, max_size=[140, 140]), [False, False]),
        ({"curriculum": [*PHASES, {**PHASES[1], "name": "again"}]}, [True, True]),
        ({"curriculum": PHASES[:1]}, [True]),
        ({"curriculum": PHASES[::-1]}, [False, False]),
        # The optimiser holds the part from the start on, though only the second phase trains it.
        (with_phase(1, unfreeze=["merger"]), [False, False]),
        ({"learning_rate": 2e-3}, [False, False]),
        ({"lora": {"r": 8, "alpha": 8, "dropout": 0.0}}, [False, False]),
        ({"gradient_accumulation": 1}, [False, False]),
        ({"batch_size": 2}, [False, False]),
        ({"weight_decay": 0.1}, [False, False]),
        ({"warmup_ratio": 0.5}, [False, False]),
        ({"loss": {"scope": "assistant"}}, [False, False]),
        ({"augment": {"resize_kernels": ["bilinear"]}}, [False, False]),
        ({"watch": {"early_stopping": {"patience": 2}}}, [False, False]),
        ({"watch": {"early_stopping": {"min_gain": 0.5}, "spike_factor": 9}}, [True, True]),
        ({"quantization": {"double_quant": False}}, [True, True]),
        ({"gradient_checkpointing": True, "vision_cache": "memory"}, [True, True]),
        ({"save_steps": None, "checkpoint_steps": [], "max_length": 4096}, [True, True]),
    ],
    ids=str,
)
def test_a_setting_changes_the_phases_that_it_decides_and_no_others(
    changes: dict[str, Any], kept: list[bool]
) -> None:
    before = fingerprints_of(tiny_config(method="lora"))
    now = fingerprints_of(tiny_config(method="lora", **changes))
    assert unchanged(before, now) == kept


def test_seed_base_data_and_precision_change_every_phase() -> None:
    config = tiny_config(method="lora")
    before = fingerprints_of(config)
    assert fingerprints_of(config) == before
    for fact in ("base", "data", "dtype"):
        assert not any(unchanged(before, fingerprints_of(config, **{fact: "other"})))
    seeded = config.model_copy(update={"run": config.run.model_copy(update={"seed": 7})})
    assert not any(unchanged(before, fingerprints_of(seeded)))


def test_two_processes_do_what_one_does_with_twice_the_batches() -> None:
    two = tiny_config(method="lora", gradient_accumulation=1)
    assert fingerprints_of(two, processes=2) == fingerprints_of(tiny_config(method="lora"))


def test_every_setting_that_is_left_out_is_one() -> None:
    """A setting that nobody has thought of counts for every phase; a renamed one must too."""
    left_out = fingerprints.RESOLVED | fingerprints.WITHOUT_EFFECT
    assert left_out <= TrainConfig.model_fields.keys()


def test_the_data_s_digest_is_over_the_prepared_files(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"rows")
    before = data_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("no data")
    assert data_digest(tmp_path) == before
    (tmp_path / "train.parquet").write_bytes(b"other rows")
    assert data_digest(tmp_path) != before


GRID = contract_of(FAMILIES["qwen2_5_vl"]).grid
THREE = [Phase(n, f"p{n}", GRID, (0,), 2, 2 * n, 1e-3) for n in range(3)]


def publish(version: Path, phase: Phase, fingerprint: str, content: bytes = b"weights") -> None:
    """A finished phase of a version, as a training leaves it."""
    checkpoint = version / "in_training" / f"{phase.number}_{phase.name}" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter_model.safetensors").write_bytes(content)
    (checkpoint / "adapter_config.json").write_text("{}")
    save({"state": phase.number}, checkpoint / "optimizer.pt")
    metrics = version / "metrics.jsonl"
    for step in (phase.first_step + 1, phase.last_step):
        append_row(metrics, {"step": step, "phase": phase.name, "loss": float(step)})
    append_row(metrics, {"step": phase.last_step, "phase": phase.name, "eval_loss": 0.5})
    keep_adapter(version, phase, checkpoint)
    keep_phase_state(version, phase, checkpoint, fingerprint, metrics=metrics, evaluated_on="grid")


def test_the_first_phases_are_found_wherever_they_lie_and_laid_out_as_finished(
    tmp_path: Path,
) -> None:
    """One in a published version, one in what an interrupted training left."""
    publish(tmp_path / "v001", THREE[0], "one")
    publish(tmp_path / "v002.partial", THREE[1], "two")
    (tmp_path / "latest").symlink_to("v001")
    own = tmp_path / "v003.partial"
    own.mkdir()
    found = find_reusable(own, ["one", "two", "three"])
    assert [taken.version.name for taken in found.states] == ["v001", "v002.partial"]
    assert "phase p0 is taken over from v001" in found.lines()[0]
    take_over(found, own, own / "in_training", THREE, evaluated_on="grid")
    assert (own / "phases/0_p0/adapter_model.safetensors").read_bytes() == b"weights"
    assert [row["step"] for row in read_rows(own / "metrics.jsonl")] == [1, 2, 2, 3, 4, 4]
    for phase in THREE[:2]:
        work = own / "in_training" / f"{phase.number}_{phase.name}"
        assert (work / "finished").read_text() == f"{phase.last_step}\n"
    checkpoint = final_checkpoint(own / "in_training/1_p1", 2)
    assert checkpoint is not None
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "checkpoint.json",
        "optimizer.pt",
    ]
    # What was taken over can be taken over again.
    shutil.rmtree(tmp_path / "v001")
    assert len(find_reusable(tmp_path / "v004.partial", ["one", "two"]).states) == 2


def test_a_phase_without_those_before_it_is_of_no_use(tmp_path: Path) -> None:
    publish(tmp_path / "v001", THREE[1], "two")
    assert find_reusable(tmp_path / "v002.partial", ["one", "two"]).states == ()


def test_losses_measured_at_another_grid_are_left_out(tmp_path: Path) -> None:
    publish(tmp_path / "v001", THREE[0], "one")
    own = tmp_path / "v002.partial"
    found = find_reusable(own, ["one"])
    take_over(found, own, own / "in_training", THREE, evaluated_on="a larger grid")
    assert [row["loss"] for row in read_rows(own / "metrics.jsonl")] == [1.0, 2.0]
    grown = contract_of(FAMILIES["qwen2_5_vl"], max_size=(896, 896), max_pixels=896 * 896)
    assert evaluated_on(grown) != evaluated_on(contract_of(FAMILIES["qwen2_5_vl"]))


def test_a_phase_that_was_stopped_early_is_handed_on_as_it_was_at_its_best(tmp_path: Path) -> None:
    publish(tmp_path / "v001", THREE[0], "one")
    longer = Phase(0, "p0", GRID, (0,), 9, 0, 1e-3)
    own = tmp_path / "v002.partial"
    take_over(
        find_reusable(own, ["one"]), own, own / "work", [longer, THREE[1]], evaluated_on="grid"
    )
    checkpoint = final_checkpoint(own / "work/0_p0", 9)
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-2"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("phases/0_p0/adapter_model.safetensors", "is not what was written"),
        ("phase_states/0_p0/optimizer.pt", "is not what was written"),
        ("phase_states/0_p0/phase.json", "is damaged: Invalid JSON"),
    ],
)
def test_a_damaged_state_is_passed_over_and_told(name: str, told: str, tmp_path: Path) -> None:
    """An older sound one is taken; without one the phase is trained."""
    publish(tmp_path / "v001", THREE[0], "one")
    publish(tmp_path / "v002", THREE[0], "one")
    damaged = tmp_path / "v002" / name
    damaged.write_bytes(damaged.read_bytes()[:-3])
    found = find_reusable(tmp_path / "v003.partial", ["one"])
    assert [taken.version.name for taken in found.states] == ["v001"]
    assert len(found.damaged) == 1
    assert told in found.lines()[0]
    shutil.rmtree(tmp_path / "v001")
    assert find_reusable(tmp_path / "v003.partial", ["one"]).states == ()


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    publish(tmp_path / "v001", THREE[0], "one")
    (tmp_path / "v001/phase_states/0_p0/optimizer.pt").unlink()
    found = find_reusable(tmp_path / "v002.partial", ["one"])
    assert found.states == ()
    assert "optimizer.pt is gone" in found.damaged[0]


def test_a_kill_while_a_state_is_kept_leaves_none_and_the_next_attempt_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("vlmpipe.training.phase_states.sync_tree", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(tmp_path / "v001", THREE[0], "one")
    assert find_reusable(tmp_path / "v002.partial", ["one"]).states == ()
    shutil.rmtree(tmp_path / "v001/in_training")
    publish(tmp_path / "v001", THREE[0], "one")
    assert len(find_reusable(tmp_path / "v002.partial", ["one"]).states) == 1


def test_a_kill_while_phases_are_taken_over_leaves_nothing_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "v001", THREE[0], "one")
    own = tmp_path / "v002.partial"
    found = find_reusable(own, ["one"])
    with monkeypatch.context() as patched:
        patched.setattr("vlmpipe.training.phase_states.sync_tree", killed)
        with pytest.raises(KeyboardInterrupt):
            take_over(found, own, own / "in_training", THREE, evaluated_on="grid")
    assert not (own / "in_training").exists()
    take_over(found, own, own / "in_training", THREE, evaluated_on="grid")
    assert final_checkpoint(own / "in_training/0_p0", 2) is not None
    assert len(read_rows(own / "metrics.jsonl")) == 3


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_training_that_takes_a_phase_over_has_the_losses_of_one_that_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the second phase's learning rate differs: fp32 losses, and the adapter, to the bit."""
    first = tiny_config(method="lora")
    marks = fingerprints_of(first)

    def keep_both(folder: Path, phase: Phase, checkpoint: Path) -> None:
        keep_adapter(folder, phase, checkpoint)
        rows = folder / "metrics.jsonl"
        keep_phase_state(
            folder, phase, checkpoint, marks[phase.number], metrics=rows, evaluated_on="grid"
        )

    monkeypatch.setattr("vlmpipe.training.session.keep_adapter", keep_both)
    run_training(VISION, tmp_path / "v001", first)
    changed = tiny_config(method="lora", **with_phase(1, learning_rate_scale=0.1))
    whole = tmp_path / "alone" / "v001"
    run_training(VISION, whole, changed)
    own = tmp_path / "v002"
    phases = prepared(changed).phases
    found = find_reusable(own, fingerprints_of(changed))
    assert [taken.state.name for taken in found.states] == ["small"]
    take_over(found, own, own / "in_training", phases, evaluated_on="grid")
    rows = (own / "metrics.jsonl").read_text().splitlines()
    run_training(VISION, own, changed)
    steps = {folder: losses(folder) for folder in (whole, own)}
    assert [step for step, _ in steps[own]] == [1, 2, 3, 4]
    assert steps[own] == steps[whole]
    assert (own / "metrics.jsonl").read_text().splitlines()[: len(rows)] == rows  # trained once
    adapter = "adapter/adapter_model.safetensors"
    assert sha256_of(own / adapter) == sha256_of(whole / adapter)
    assert sha256_of(own / adapter) != sha256_of(tmp_path / "v001" / adapter)


def losses(folder: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]
