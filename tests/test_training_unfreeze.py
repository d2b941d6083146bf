"""Progressive unfreezing: what is open in each phase, and an optimiser that grows with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model_folders import encoder_of, model_folder
from training_runs import base_of, run_training, samples_for, tiny_config
from vlmpipe.config import Config
from vlmpipe.errors import ConfigError
from vlmpipe.models.families import FAMILIES
from vlmpipe.models.loading import load_model
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training.adapter import (
    adapted_modules,
    count_trained,
    expected_adapter_parameters,
    load_adapter_weights,
    make_trainable,
    open_parts,
    save_adapter,
)
from vlmpipe.training.batching.collator import pad_batch
from vlmpipe.training.curriculum import unfreezing
from vlmpipe.training.optimizer import set_learning_rate, training_optimizer
from vlmpipe.training.phase_adapters import read_index
from vlmpipe.training.watch.rows import read_rows

NAME = "random-qwen2_5_vl"
FAMILY = FAMILIES["qwen2_5_vl"]
SCHEDULE = [
    {"name": "a", "max_size": [112, 112]},
    {"name": "b", "max_size": [112, 112], "unfreeze": ["merger"]},
    {"name": "c", "max_size": [112, 112], "unfreeze": ["last_blocks:1"]},
]
SEEN = [(), ("merger",), ("merger", "last_blocks:1")]


def config_of(**train: Any) -> Config:
    return tiny_config(method="lora", **{"curriculum": SCHEDULE, **train})


def fresh(config: Config, name: str = NAME, dtype: str = "float32") -> Any:
    base = base_of(name)
    return make_trainable(load_model(base.folder, dtype=dtype), base.family, config.train, 0)


def trained(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def layers_of(config: Config, name: str = NAME) -> list[str]:
    base = base_of(name)
    return adapted_modules(load_model(base.folder), base.family, config.train)


def test_parts_stay_open_once_a_phase_has_opened_them() -> None:
    assert unfreezing(config_of().train, has_vision=True) == SEEN
    assert unfreezing(config_of().train, has_vision=False) == [()]
    from_the_first = unfreezing(config_of(unfreeze=["last_blocks:1"]).train, has_vision=True)
    assert from_the_first == [
        ("last_blocks:1",),
        ("last_blocks:1", "merger"),
        ("last_blocks:1", "merger"),
    ]


@pytest.mark.parametrize("name", ["random-qwen2_vl", NAME, "random-qwen3_vl"])
def test_each_phase_trains_exactly_what_it_opens_under_unchanging_names(name: str) -> None:
    config, base = config_of(), base_of(name)
    model, layers = fresh(config, name), layers_of(config, name)
    names = [set(model.state_dict())]
    found = []
    for parts in SEEN:
        open_parts(model, base.family, parts)
        expected = expected_adapter_parameters(model, base.family, config.train, layers, parts)
        assert trained(model) == expected
        names.append(set(model.state_dict()))
        found.append(len(expected))
    assert found == sorted(set(found))
    assert all(each == names[0] for each in names)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_each_phase_trains_is_counted_without_opening_it(method: str) -> None:
    config = tiny_config(method=method, curriculum=SCHEDULE)
    model = fresh(config)
    before = trained(model)
    foretold = [count_trained(model, FAMILY, parts) for parts in SEEN]
    assert trained(model) == before
    for parts, count in zip(SEEN, foretold, strict=True):
        open_parts(model, FAMILY, parts)
        assert count == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert foretold == sorted(set(foretold))


def test_more_blocks_than_the_tower_has_are_refused_with_the_number_it_has() -> None:
    with pytest.raises(ConfigError) as caught:
        fresh(config_of(unfreeze=["last_blocks:99"]))
    remedy = caught.value.remedies[0].partition("train.unfreeze=")[2].strip("'")
    fresh(config_of(unfreeze=json.loads(remedy)))


def test_a_new_model_is_as_the_first_phase_trains_it() -> None:
    later = config_of()
    assert not any("modules_to_save" in name for name in trained(fresh(later)))
    at_once = config_of(unfreeze=["merger"])
    assert any("merger.modules_to_save" in name for name in trained(fresh(at_once)))


def test_a_closed_copy_answers_as_the_base_does() -> None:
    model = fresh(config_of()).eval()
    batch = a_batch()
    with torch.inference_mode():
        adapted = model(**batch).logits
        with model.disable_adapter():
            assert torch.equal(adapted, model(**batch).logits)


def test_switching_an_adapter_off_and_on_opens_copies_and_they_can_be_closed_again() -> None:
    """PEFT opens every copy then, which is why each phase opens its own parts anew."""
    model = fresh(config_of())
    before = trained(model)
    with model.disable_adapter():
        pass
    assert trained(model) > before
    open_parts(model, FAMILY, ())
    assert trained(model) == before


def test_what_opens_is_trained_in_fp32_over_a_16_bit_base() -> None:
    model = fresh(config_of(), dtype="bfloat16")
    open_parts(model, FAMILY, SEEN[-1])
    opened = [p for p in model.parameters() if p.requires_grad]
    assert {parameter.dtype for parameter in opened} == {torch.float32}


def test_full_training_opens_parts_by_phase_too() -> None:
    config, base = tiny_config(method="full", curriculum=SCHEDULE), base_of(NAME)
    model = make_trainable(load_model(base.folder), base.family, config.train, 0)
    for parts, opened in zip(SEEN, (set(), {"merger"}, {"merger", "blocks"}), strict=True):
        open_parts(model, base.family, parts)
        names = trained(model)
        assert {n.split(".")[2] for n in names if n.startswith("model.visual.")} == opened
        assert any(name.startswith("model.language_model.") for name in names)


def test_a_text_model_has_no_part_to_open() -> None:
    model = fresh(tiny_config(method="lora"), "random-qwen3")
    with pytest.raises(ConfigError, match="Qwen3 has no vision tower"):
        open_parts(model, FAMILIES["qwen3"], ("merger",))


def a_batch() -> dict[str, torch.Tensor]:
    sample = samples_for(NAME, 1)[0]
    return pad_batch([encoder_of(NAME).encode_sample(sample.messages)], 0)


class Loop:
    """One step a phase, as a training takes them, with a checkpoint after each."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.model = fresh(config)
        self.optimizer = training_optimizer(self.model, FAMILY, config.train, 1e-3)

    def phase(self, number: int) -> float:
        open_parts(self.model, FAMILY, SEEN[number])
        set_learning_rate(self.optimizer, 1e-3 / (number + 1))
        self.model.train()
        for _ in range(2):
            loss = self.model(**a_batch()).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return float(loss.detach())

    def save(self) -> None:
        save_adapter(self.model, base_of(NAME), self.folder)
        torch.save(self.optimizer.state_dict(), self.folder / "optimizer.pt")

    def restore(self, number: int) -> None:
        """What a process does that takes up after phase `number`."""
        open_parts(self.model, FAMILY, SEEN[number])
        load_adapter_weights(self.model, self.folder)
        state = torch.load(self.folder / "optimizer.pt", weights_only=True)
        self.optimizer.load_state_dict(state)


@pytest.mark.parametrize("killed_after", [0, 1])
@pytest.mark.parametrize("lora", [{}, {"plus_ratio": 8, "dora": True}], ids=["lora", "plus-dora"])
def test_a_schedule_that_was_killed_between_two_phases_goes_on_to_the_same_weights(
    lora: dict[str, Any], killed_after: int, tmp_path: Path
) -> None:
    config = config_of(lora={"r": 4, "alpha": 8, "dropout": 0.0, **lora})
    whole, cut = Loop(config, tmp_path / "whole"), Loop(config, tmp_path / "cut")
    losses = [whole.phase(number) for number in range(3)]
    for number in range(killed_after + 1):
        cut.phase(number)
    cut.save()
    again = Loop(config, tmp_path / "cut")
    again.restore(killed_after)
    rest = [again.phase(number) for number in range(killed_after + 1, 3)]
    assert rest == losses[killed_after + 1 :]
    expected, found = whole.model.state_dict(), again.model.state_dict()
    merger = [name for name in expected if ".merger.modules_to_save" in name]
    base = load_model(model_folder(NAME)).state_dict()
    assert any(not torch.equal(expected[n], base[in_the_base(n)]) for n in merger)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def in_the_base(name: str) -> str:
    copied = name.removeprefix("base_model.model.")
    return copied.replace(".modules_to_save.default.", ".")


def test_a_part_that_opens_leaves_the_moments_of_the_others_and_begins_its_own(
    tmp_path: Path,
) -> None:
    loop = Loop(config_of(), tmp_path)
    loop.phase(0)
    before = {id(p): state["step"].item() for p, state in loop.optimizer.state.items()}
    assert before
    assert set(before.values()) == {2}
    loop.phase(1)
    steps = {id(p): state["step"].item() for p, state in loop.optimizer.state.items()}
    assert {steps[key] for key in before} == {4}
    assert {steps[key] for key in steps.keys() - before.keys()} == {2}
    merger = {id(p) for n, p in loop.model.named_parameters() if ".merger.modules_to_save" in n}
    assert steps.keys() - before.keys() == merger


def test_what_a_phase_left_closed_is_saved_as_the_base_holds_it(tmp_path: Path) -> None:
    loop = Loop(config_of(), tmp_path)
    loop.phase(0)
    loop.save()
    saved = load_file(str(tmp_path / "adapter_model.safetensors"))
    base = load_model(model_folder(NAME)).state_dict()
    copies = {key: value for key, value in saved.items() if "model.visual." in key}
    assert copies
    for key, value in copies.items():
        assert torch.equal(value, base[key.removeprefix("base_model.model.")]), key


@pytest.mark.slow
def test_a_training_that_was_killed_late_in_its_schedule_ends_as_if_it_had_not(
    tmp_path: Path,
) -> None:
    """In the third phase, after a checkpoint of its own: two phases are taken up as finished."""
    sections = [{**section, "max_steps": 2} for section in SCHEDULE]
    config = config_of(
        curriculum=sections,
        checkpoint_steps=[1, 3, 5],
        lora={"r": 4, "alpha": 8, "dropout": 0.0, "plus_ratio": 8, "dora": True},
    )
    run_training(NAME, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        run_training(NAME, tmp_path / "cut", config, reporter=InterruptAt(5))
    run_training(NAME, tmp_path / "cut", config)
    losses = [
        [row["loss"] for row in read_rows(tmp_path / name / "metrics.jsonl") if "loss" in row]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    found = [
        load_file(str(tmp_path / name / "adapter/adapter_model.safetensors"))
        for name in ("whole", "cut")
    ]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[1][key], value) for key, value in found[0].items())
    opened = changed_by_phase(tmp_path / "whole")
    assert opened == [set(), {"merger"}, {"merger", "blocks"}]


def changed_by_phase(folder: Path) -> list[set[str]]:
    """Parts of the tower that are not the base's, as each phase left them."""
    base = load_model(model_folder(NAME)).state_dict()
    found = []
    for phase in read_index(folder):
        saved = load_file(str(folder / phase.folder / "adapter_model.safetensors"))
        names = {key.removeprefix("base_model.model."): value for key, value in saved.items()}
        found.append(
            {
                name.split(".")[2]
                for name, value in names.items()
                if name.startswith("model.visual.") and not torch.equal(value, base[name])
            }
        )
    return found


class InterruptAt(SilentReporter):
    """Stops a training between two steps, with nothing saved since."""

    def __init__(self, step: int) -> None:
        self.step = step

    def progress(self, label: str, done: float, total: float | None, **fields: str) -> None:
        if done == self.step:
            raise KeyboardInterrupt
