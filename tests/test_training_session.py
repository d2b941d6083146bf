"""Real trainings of tiny models: every family, resuming, the loss."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model_folders import RANDOM_MODELS, contract_of, model_folder, table_sample
from training_runs import base_of, run_training, samples_for, tiny_config
from vlmpipe.config import parse_config
from vlmpipe.encoding.contract import read_contract
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.evaluation.validation.subjects import open_subjects
from vlmpipe.models.families import family_of
from vlmpipe.models.loading import load_model, load_tokenizer
from vlmpipe.models.wrapping import unwrapped
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training import input_casts
from vlmpipe.training.batching.collator import pad_batch
from vlmpipe.training.phase_adapters import read_index
from vlmpipe.training.phase_trainer import PhaseTrainer
from vlmpipe.training.watch.rows import read_rows


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_rows(folder / "metrics.jsonl") if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_qlora_trains_each_family_and_hands_on_what_the_next_stages_read(
    name: str, tmp_path: Path
) -> None:
    outcome = run_training(name, tmp_path / "v001", tiny_config(method="qlora", max_steps=4))
    folder = tmp_path / "v001"
    assert [row["step"] for row in steps_of(folder)] == [1, 2, 3, 4]
    assert all(math.isfinite(row["loss"]) for row in steps_of(folder))
    assert read_contract(folder).family == family_of(model_folder(name)).name
    weights = load_file(str(folder / "adapter" / "adapter_model.safetensors"))
    changed = [key for key, value in weights.items() if "lora_B" in key and value.any()]
    assert len(changed) == sum("lora_B" in key for key in weights)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-1", "step-3"]
    assert json.loads((folder / "audit.json").read_text())["census"]["quantized_linears"] > 0
    assert list((folder / "tensorboard").rglob("events.out.*"))
    assert outcome.metrics["train/steps"] == 4


class InterruptAt(SilentReporter):
    """Stops a training as a kill would: between two steps, with nothing saved since."""

    def __init__(self, step: int) -> None:
        self.step = step

    def progress(self, label: str, done: float, total: float | None, **fields: str) -> None:
        if done == self.step:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [2, 4])
def test_an_interrupted_training_goes_on_to_the_same_losses_and_weights(
    killed_at: int, tmp_path: Path
) -> None:
    """Killed at the first phase's end, and in the second phase after its checkpoint."""
    name, config = "random-qwen2_5_vl", tiny_config(method="lora")
    run_training(name, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        run_training(name, tmp_path / "cut", config, reporter=InterruptAt(killed_at))
    run_training(name, tmp_path / "cut", config)
    whole, cut = steps_of(tmp_path / "whole"), steps_of(tmp_path / "cut")
    assert [row["step"] for row in cut] == [1, 2, 3, 4]
    assert [row["loss"] for row in cut] == [row["loss"] for row in whole]
    expected = load_file(str(tmp_path / "whole/adapter/adapter_model.safetensors"))
    found = load_file(str(tmp_path / "cut/adapter/adapter_model.safetensors"))
    assert all(torch.equal(found[key], value) for key, value in expected.items())


class SignalAt(SilentReporter):
    """Ctrl-C while a step's figures are shown."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.notes: list[str] = []

    def progress(self, label: str, done: float, total: float | None, **fields: str) -> None:
        if done == self.step:
            os.kill(os.getpid(), signal.SIGINT)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.slow
@pytest.mark.parametrize(("asked_at", "saved_at"), [(1, 2), (2, 2), (3, 4)])
def test_ctrl_c_saves_the_step_under_way_and_the_next_training_goes_on_from_there(
    asked_at: int, saved_at: int, tmp_path: Path
) -> None:
    """In mid-phase, at a phase's end and at the last step; no checkpoint was chosen there."""
    name, config = "random-qwen2_5_vl", tiny_config(method="lora", checkpoint_steps=[])
    run_training(name, tmp_path / "whole", config)
    reporter = SignalAt(asked_at)
    with pytest.raises(KeyboardInterrupt) as caught:
        run_training(name, tmp_path / "cut", config, reporter=reporter)
    assert any("stopping after this step" in note for note in reporter.notes)
    assert f"after step {saved_at} of 4" in caught.value.__notes__[0]
    seen = InterruptAt(saved_at)
    run_training(name, tmp_path / "cut", config, reporter=seen)  # that step is not shown again
    whole, cut = steps_of(tmp_path / "whole"), steps_of(tmp_path / "cut")
    assert [(row["step"], row["loss"]) for row in cut] == [
        (row["step"], row["loss"]) for row in whole
    ]
    expected = load_file(str(tmp_path / "whole/adapter/adapter_model.safetensors"))
    found = load_file(str(tmp_path / "cut/adapter/adapter_model.safetensors"))
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_training_killed_before_it_was_published_is_not_done_again(
    method: str, tmp_path: Path
) -> None:
    config = tiny_config(method=method)
    first = run_training("random-qwen3", tmp_path / "v001.partial", config)
    before = {path: path.stat().st_mtime_ns for path in produced(tmp_path)}
    again = run_training("random-qwen3", tmp_path / "v001.partial", config)
    assert {path: path.stat().st_mtime_ns for path in produced(tmp_path)} == before
    assert again.metrics == first.metrics


def produced(folder: Path) -> list[Path]:
    """What a training makes, without what every attempt writes anew: its audit."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "audit.json"]


@pytest.mark.slow
def test_a_training_killed_while_it_kept_its_checkpoints_ends_as_if_it_had_not(
    tmp_path: Path,
) -> None:
    config, folder = tiny_config(method="lora"), tmp_path / "v001.partial"
    run_training("random-qwen3", tmp_path / "whole", config)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("vlmpipe.training.run.drop_phases", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_training("random-qwen3", folder, config)
    run_training("random-qwen3", folder, config)
    kept = "checkpoints/step-3/adapter_model.safetensors"
    for name in ("adapter/adapter_model.safetensors", kept):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (folder / "in_training").exists()


@pytest.mark.slow
def test_each_phase_s_adapter_is_published_whether_or_not_it_was_interrupted(
    tmp_path: Path,
) -> None:
    """Killed in the second phase: the first one's adapter is not trained again."""
    name, config = "random-qwen2_5_vl", tiny_config(method="lora")
    run_training(name, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        run_training(name, tmp_path / "cut", config, reporter=InterruptAt(3))
    run_training(name, tmp_path / "cut", config)
    for folder in (tmp_path / "whole", tmp_path / "cut"):
        phases = read_index(folder)
        assert [(p.name, p.last_step, p.folder) for p in phases] == [
            ("small", 2, "phases/0_small"),
            ("large", 4, "adapter"),
        ]
        assert sorted(p.name for p in (folder / "phases").iterdir()) == ["0_small", "phases.json"]
    small = "phases/0_small/adapter_model.safetensors"
    assert (tmp_path / "whole" / small).read_bytes() == (tmp_path / "cut" / small).read_bytes()
    final = load_file(str(tmp_path / "whole/adapter/adapter_model.safetensors"))
    after_small = load_file(str(tmp_path / "whole" / small))
    assert final.keys() == after_small.keys()
    assert not all(torch.equal(final[key], after_small[key]) for key in final)


@pytest.mark.slow
def test_validate_switches_to_each_phase_and_back(tmp_path: Path) -> None:
    """The loss after the first phase is what training measured there."""
    name, folder = "random-qwen2_5_vl", tmp_path / "v001"
    config = tiny_config(method="lora")
    samples = samples_for(name)
    run_training(name, folder, config, samples)
    sample = samples[0]
    with open_subjects(config, base_of(name), folder) as subjects:
        tuned = subjects.engines["tuned"].score(sample.prompt, sample.reference)
        with subjects.after(subjects.phases[0]) as engine:
            after_small = engine.score(sample.prompt, sample.reference)
        again = subjects.engines["tuned"].score(sample.prompt, sample.reference)
    evaluated = [
        row["eval_loss"] for row in read_rows(folder / "metrics.jsonl") if "eval_loss" in row
    ]
    assert [after_small.loss, tuned.loss] == pytest.approx(evaluated, abs=1e-4)
    assert again == tuned


@pytest.mark.slow
def test_one_phase_leaves_no_adapters_of_phases(tmp_path: Path) -> None:
    config = tiny_config(method="lora", curriculum=[], max_steps=1, checkpoint_steps=[])
    run_training("random-qwen3", tmp_path, config)
    assert read_index(tmp_path) == ()
    assert not (tmp_path / "phases").exists()


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_the_same_settings_give_the_same_adapter(tmp_path: Path) -> None:
    """What lets an identical retrain force no merge."""
    config = tiny_config(method="qlora")
    for run in ("a", "b"):
        run_training("random-qwen3", tmp_path / run, config)
    a, b = (tmp_path / run / "adapter/adapter_model.safetensors" for run in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.slow
def test_the_logged_loss_is_a_mean_over_tokens_not_over_samples(tmp_path: Path) -> None:
    """One step over two answers of different length, held against cross entropy by hand."""
    name = "random-qwen3"
    short, long = table_sample(1, vision=False), table_sample(2, vision=False)
    long = type(long)(
        id="long",
        messages=(long.messages[0], type(long.messages[1])("assistant", ("a b c " * 20,))),
        task="table",
    )
    config = tiny_config(method="lora", curriculum=[], max_steps=1, checkpoint_steps=[])
    run_training(name, tmp_path / "v001", config, samples=[short, long])
    folder = model_folder(name)
    encoder = Encoder(load_tokenizer(folder), contract_of(family_of(folder)))
    model, total, count = load_model(folder), 0.0, 0
    for sample in (short, long):
        batch = pad_batch([encoder.encode_sample(sample.messages)], 0)
        labels = batch.pop("labels")[0, 1:]
        with torch.inference_mode():
            logits = model(**batch).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += int((labels != -100).sum())
    assert steps_of(tmp_path / "v001")[0]["loss"] == pytest.approx(total / count, rel=1e-4)


@pytest.mark.slow
def test_full_training_writes_a_model_that_loads(tmp_path: Path) -> None:
    config = tiny_config(method="full", learning_rate=1e-4)
    run_training("random-qwen2_5_vl", tmp_path / "v001", config)
    base = load_model(model_folder("random-qwen2_5_vl"))
    tuned = load_model(tmp_path / "v001" / "model")
    pairs = zip(base.named_parameters(), tuned.named_parameters(), strict=True)
    changed = {name for (name, a), (_, b) in pairs if not torch.equal(a, b)}
    assert changed
    assert not any("visual" in name for name in changed)


@pytest.mark.slow
def test_a_frozen_tower_gets_no_backward_pass_under_gradient_checkpointing(tmp_path: Path) -> None:
    watched: list[bool] = []

    config = tiny_config(method="lora", gradient_checkpointing=True)
    with pytest.MonkeyPatch.context() as patched:
        plain = PhaseTrainer.compute_loss

        def seen(self: PhaseTrainer, model: Any, *args: Any, **kwargs: Any) -> Any:
            tower = unwrapped(model).model.visual

            def note(_m: Any, _i: Any, output: Any) -> None:
                watched.append(output.requires_grad)

            handle = tower.patch_embed.register_forward_hook(note)
            try:
                return plain(self, model, *args, **kwargs)
            finally:
                handle.remove()

        patched.setattr(PhaseTrainer, "compute_loss", seen)
        run_training("random-qwen2_5_vl", tmp_path / "v001", config)
    assert watched
    assert not any(watched)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_casts_that_autocast_undoes_are_left_out_and_change_no_bit(
    checkpointing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(method="qlora", gradient_checkpointing=checkpointing)
    config = parse_config({**config.model_dump(by_alias=True), "model": {"dtype": "bfloat16"}})
    run_training("random-qwen2_5_vl", tmp_path / "lean", config)
    monkeypatch.setattr(input_casts, "FLAG", "no_layer_has_this")
    run_training("random-qwen2_5_vl", tmp_path / "plain", config)
    lean, plain = (steps_of(tmp_path / name) for name in ("lean", "plain"))
    assert [row["loss"] for row in lean] == [row["loss"] for row in plain]
    assert [row["grad_norm"] for row in lean] == [row["grad_norm"] for row in plain]
