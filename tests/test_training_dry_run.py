"""The worst batch of each phase is tried; what is proposed where it does not fit does fit."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from model_folders import encoder_of, table_sample
from training_runs import base_of, tiny_config
from vlmpipe.config.train import TrainConfig
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import StageError
from vlmpipe.training.batching.collator import PhaseCollator
from vlmpipe.training.batching.lengths import SampleLength, SampleLengths
from vlmpipe.training.batching.plan import BatchRule, plan_batches
from vlmpipe.training.batching.rows import Batch
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.dry_run import trying
from vlmpipe.training.dry_run.cases import Load, PhaseCase
from vlmpipe.training.dry_run.fit import MemoryFit, Trial, fit_memory
from vlmpipe.training.dry_run.measuring import MARGIN
from vlmpipe.training.dry_run.memory import is_out_of_memory, optimizer_bytes, room_of
from vlmpipe.training.dry_run.run import DryRun, PhaseDryRun, dry_run
from vlmpipe.training.memory_peak import MemoryPeak
from vlmpipe.training.run import load_trainable

KIB, MIB = 2**10, 2**20
LAW = MemoryFit(30 * MIB, 24 * KIB, 12 * KIB)
"""Of the made-up device: 30 MiB at once, 24 KiB a token, 12 KiB more for an image's."""

GRID = encoder_of("random-qwen2_5_vl").contract.grid


@dataclass
class Device:
    """A model whose steps take the memory of `LAW`, on a device that has so much."""

    room: int
    law: MemoryFit = LAW
    model: torch.nn.Module = field(default_factory=lambda: torch.nn.Linear(4, 4))
    tried: list[Load] = field(default_factory=list)

    def step(self, batch: dict[str, Any]) -> None:
        self.tried.append(batch["load"])
        if self.law.predict(batch["load"]) > self.room:
            raise torch.OutOfMemoryError("out of memory, as CUDA says it")
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter)

    @contextmanager
    def measured(self, device: Any) -> Iterator[MemoryPeak]:
        peak = MemoryPeak()
        yield peak
        peak.bytes = int(self.law.predict(self.tried[-1]))

    def run(self, cases: Sequence[PhaseCase], config: TrainConfig) -> DryRun:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trying, "peak_memory", self.measured)
            patch.setattr(trying, "release_memory", lambda: None)
            return dry_run(self.model, cases, config, "cpu", lambda: self.room)


SIZES = [(112 + 56 * (n % 7), 112 + 84 * (n % 5)) for n in range(40)]
TEXTS = [40 + 37 * n % 400 for n in range(40)]
MIXED = [SampleLength(text, (size,)) for text, size in zip(TEXTS, SIZES, strict=True)]
ALIKE = [SampleLength(60, ((448, 448),))] * 6


def case_of(
    device: Device,
    lengths: Sequence[SampleLength] = MIXED,
    box: tuple[int, int] = (448, 448),
    name: str = "large",
    **rule: Any,
) -> PhaseCase:
    known, grid, chosen = SampleLengths(lengths), GRID.within(box), BatchRule(**rule)
    indices = tuple(range(len(lengths)))
    tokens = [known.tokens(index, grid) for index in indices]
    plan = plan_batches(indices, tokens, [1.0] * len(indices), rule=chosen, seed=0, epochs=1)
    case: PhaseCase

    def collate(batch: Batch) -> dict[str, Any]:
        return {"load": case.load_of(batch)}

    phase = Phase(0, name, grid, indices, plan.steps, 0, 1e-3)
    case = PhaseCase(phase, plan.batches, chosen, known, collate, device.step)
    return case


def config_of(**train: Any) -> TrainConfig:
    return tiny_config(**train).train


def worst_of(case: PhaseCase, grid: ImageGrid, count: int) -> Load:
    """The most that so many of the samples can be together."""
    samples = sorted(range(len(case.rows)), key=lambda each: -case.lengths.tokens(each, grid))
    images = sorted((case.lengths.image_tokens(each, grid) for each in samples), reverse=True)
    return replace(case.load_at(samples[:count], grid), image_tokens=sum(images[:count]))


def refused(device: Device, cases: Sequence[PhaseCase], **train: Any) -> StageError:
    before = {name: value.clone() for name, value in device.model.state_dict().items()}
    with pytest.raises(StageError, match="does not fit into the") as caught:
        device.run(cases, config_of(**train))
    assert all(torch.equal(v, before[k]) for k, v in device.model.state_dict().items())
    assert all(parameter.grad is None for parameter in device.model.parameters())
    return caught.value


def found(error: StageError, pattern: str) -> tuple[int, ...]:
    """Numbers in the first remedy that matches."""
    matches = [re.search(pattern, remedy) for remedy in error.remedies]
    match = next(each for each in matches if each)
    return tuple(int(number) for number in match.groups())


@pytest.fixture(params=["careful", "bold"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, and as on a GPU, where a batch is tried without foretelling."""
    if request.param == "bold":
        from vlmpipe.training.dry_run.measuring import Measuring

        monkeypatch.setattr(Measuring, "foresees", lambda self, batch: True)


def test_what_fits_is_told_with_its_peak() -> None:
    device = Device(900 * MIB)
    case = case_of(device, batch_size=4)
    result = device.run([case], config_of())
    (row,) = result.phases
    assert row.load == max((case.load_of(b) for b in case.batches), key=lambda load: load.places)
    assert row.peak_bytes == pytest.approx(LAW.predict(row.load), rel=0.1)
    assert row.free_bytes == 900 * MIB
    assert result.lines()[0].startswith("phase large: its largest batch (4 samples, ")
    assert result.as_json()["phases"][0]["load"]["samples"] == 4
    assert all(parameter.grad is None for parameter in device.model.parameters())


def test_a_small_step_is_not_told_to_take_nothing() -> None:
    step = PhaseDryRun("a", Load(1, 85, 16), 3 * 2**20, 600 * 2**10, 5 * 2**30)
    told = step.line()
    assert "takes 3.0 MiB, the optimiser 0.59 MiB, of 5.0 GiB free" in told
    assert "the optimiser 2.0 KiB" in replace(step, optimizer_bytes=2048).line()


def test_the_batch_of_most_image_tokens_is_tried_beside_the_longest() -> None:
    texts, images = SampleLength(900, ()), SampleLength(10, ((448, 448),) * 2)
    device = Device(900 * MIB, MemoryFit(10 * MIB, KIB, 200 * KIB))
    case = case_of(device, [texts, images], batch_size=1)
    (row,) = device.run([case], config_of()).phases
    assert row.load.image_tokens == 512


@pytest.mark.usefixtures("where")
def test_the_batch_size_that_is_proposed_fits_and_is_the_largest() -> None:
    device = Device(120 * MIB)
    case = case_of(device, batch_size=8)
    error = refused(device, [case], batch_size=8, gradient_accumulation=2)
    size, accumulation = found(error, r"train\.batch_size=(\d+) train\.gradient_acc\w+=(\d+)")
    limit = device.room * (1 - MARGIN)
    assert LAW.predict(worst_of(case, case.phase.grid, size)) <= limit
    assert LAW.predict(worst_of(case, case.phase.grid, size + 1)) > limit * 0.95
    assert size * accumulation >= 16
    smaller = case_of(device, batch_size=size)
    assert device.run([smaller], config_of(batch_size=size)).phases


@pytest.mark.usefixtures("where")
def test_the_budget_that_is_proposed_fits_and_is_near_the_largest() -> None:
    device = Device(120 * MIB)
    error = refused(device, [case_of(device, batch_tokens=6000)], batch_tokens=6000, method="lora")
    (tokens,) = found(error, r"train\.batch_tokens=(\d+)$")
    best = (device.room - LAW.base) / (LAW.per_place + LAW.per_image_token)
    assert 0.8 * best <= tokens <= best
    assert tokens % 64 == 0
    fitting = case_of(device, batch_tokens=tokens)
    assert device.run([fitting], config_of(batch_tokens=tokens)).phases


@pytest.mark.usefixtures("where")
def test_packed_rows_are_held_against_the_budget_too() -> None:
    device = Device(120 * MIB)
    case = case_of(device, batch_tokens=6000, packed=True)
    error = refused(device, [case], batch_tokens=6000)
    (tokens,) = found(error, r"train\.batch_tokens=(\d+)$")
    fitting = case_of(device, batch_tokens=tokens, packed=True)
    assert device.run([fitting], config_of(batch_tokens=tokens)).phases


@pytest.mark.usefixtures("where")
def test_the_image_size_that_is_proposed_for_a_sample_alone_fits_and_is_the_largest() -> None:
    device = Device(39 * MIB)
    lengths = [SampleLength(20 + 7 * n % 60, (size,)) for n, size in enumerate(SIZES)]
    case = case_of(device, lengths, batch_size=1)
    error = refused(device, [case], batch_size=1)
    assert not any("train.batch_size" in remedy for remedy in error.remedies)
    box = found(error, r"train\.curriculum, max_size: \[(\d+), (\d+)\] for phase large$")
    limit = device.room * (1 - MARGIN)
    assert LAW.predict(worst_of(case, GRID.within((box[0], box[1])), 1)) <= limit
    larger = GRID.within((box[0] + 28, box[1] + 28))
    assert LAW.predict(worst_of(case, larger, 1)) > limit * 0.95


@pytest.mark.usefixtures("where")
def test_a_smaller_image_is_proposed_for_the_batch_as_it_is_beside_a_smaller_batch() -> None:
    device = Device(90 * MIB)
    lengths = [SampleLength(30, (size,)) for size in SIZES]
    case = case_of(device, lengths, batch_size=8)
    error = refused(device, [case], batch_size=8)
    assert found(error, r"train\.batch_size=(\d+)")
    box = found(error, r"^train\.curriculum, max_size: \[(\d+), (\d+)\] for phase large$")
    smaller = case_of(device, lengths, (box[0], box[1]), batch_size=8)
    assert device.run([smaller], config_of(batch_size=8)).phases
    assert LAW.predict(worst_of(smaller, smaller.phase.grid, 8)) <= device.room * (1 - MARGIN)


@pytest.mark.usefixtures("where")
def test_where_neither_does_it_alone_both_are_proposed() -> None:
    device = Device(43 * MIB)
    lengths = [SampleLength(120, (size,)) for size in SIZES]
    case = case_of(device, lengths, batch_size=16)
    error = refused(device, [case], batch_size=16)
    box = found(error, r"^train\.batch_size=1 \S+, and train.*max_size: \[(\d+), (\d+)\] for")
    smaller = case_of(device, lengths, (box[0], box[1]), batch_size=1)
    assert device.run([smaller], config_of(batch_size=1)).phases


@pytest.mark.usefixtures("where")
def test_every_phase_that_does_not_fit_is_told_and_one_setting_serves_them_all() -> None:
    device = Device(70 * MIB)
    boxes = {"small": (112, 112), "medium": (336, 336), "large": (448, 448)}
    lengths = [SampleLength(30, (size,)) for size in SIZES]
    cases = [case_of(device, lengths, box, name, batch_size=8) for name, box in boxes.items()]
    error = refused(device, cases, batch_size=8)
    assert "phase medium, large does not fit" in error.message
    assert [problem.partition(":")[0] for problem in error.problems] == [
        "phase medium",
        "phase large",
    ]
    (size,) = found(error, r"train\.batch_size=(\d+)")
    cases = [case_of(device, lengths, box, name, batch_size=size) for name, box in boxes.items()]
    assert len(device.run(cases, config_of(batch_size=size)).phases) == 3


@pytest.mark.usefixtures("where")
def test_samples_all_alike_are_judged_by_what_other_phases_took() -> None:
    device = Device(37 * MIB)
    small, medium = (
        case_of(device, ALIKE, box, name, batch_size=1)
        for name, box in (("small", (112, 112)), ("medium", (168, 168)))
    )
    large = case_of(device, ALIKE, (448, 448), batch_size=1)
    error = refused(device, [small, medium, large], batch_size=1)
    box = found(error, r"max_size: \[(\d+), (\d+)\] for phase large$")
    fitting = case_of(device, ALIKE, (box[0], box[1]), batch_size=1)
    assert LAW.predict(worst_of(fitting, fitting.phase.grid, 1)) <= device.room


@pytest.mark.usefixtures("where")
def test_without_a_smaller_batch_it_says_so_and_names_no_figure() -> None:
    device = Device(20 * MIB)
    error = refused(device, [case_of(device, ALIKE, batch_size=1)], method="lora")
    assert error.problems[0].endswith("no smaller batch of the phase could be measured")
    assert not any("max_size" in remedy for remedy in error.remedies)
    assert error.remedies == (
        "train.gradient_checkpointing=true: far less memory, about a third more time",
        "a smaller model: model.id=ID, or train.method=qlora",
    )


def test_checkpointing_is_proposed_only_where_it_is_off() -> None:
    device = Device(120 * MIB)
    error = refused(
        device, [case_of(device, batch_size=8)], batch_size=8, gradient_checkpointing=True
    )
    assert not any("checkpointing" in remedy for remedy in error.remedies)


def test_on_a_cpu_a_batch_that_will_not_fit_is_never_tried() -> None:
    """Nothing would be raised there: the system kills the process."""
    device = Device(200 * MIB)
    case = case_of(device, batch_size=16)
    worst = max(case.load_of(batch).places for batch in case.batches)
    assert LAW.predict(Load(16, worst, 0)) > device.room
    refused(device, [case], batch_size=16)
    assert max(load.places for load in device.tried) < worst
    # Its quadratic guess alone refuses nothing: what a line through two steps allows is tried.
    allowed = Device(int(1.3 * LAW.predict(Load(16, worst, worst))))
    assert allowed.run([case_of(allowed, batch_size=16)], config_of()).phases


def test_a_half_way_step_that_is_too_much_ends_the_climb_on_a_cpu() -> None:
    steep = MemoryFit(MIB, 60 * KIB, 0)
    device = Device(20 * MIB, steep)
    case = case_of(device, [SampleLength(text, ()) for text in (20, 30, 400, 5000)], batch_size=1)
    error = refused(device, [case])
    assert max(load.places for load in device.tried) < 5000
    assert error.problems[0].startswith("phase large: 1 sample, 5,000 tokens")


def test_the_optimisers_state_must_fit_beside_the_step() -> None:
    model = torch.nn.Linear(4096, 27_000, device="meta")
    assert optimizer_bytes(model, config_of()) == 8 * 27_000 * 4097
    assert optimizer_bytes(model, config_of(optimizer="adamw_8bit")) == 2 * 27_000 * 4097
    device = Device(800 * MIB, MemoryFit(0, KIB, 0), model)
    case = case_of(device, batch_size=1)
    with pytest.raises(StageError, match="does not fit"):
        device.run([case], config_of())
    (row,) = device.run([case], config_of(optimizer="adamw_8bit")).phases
    assert row.optimizer_bytes == 2 * 27_000 * 4097
    assert device.run([case], config_of(optimizer="paged_adamw_8bit")).phases


def test_a_phases_parts_are_opened_before_its_steps_and_those_of_the_first_at_the_end() -> None:
    device, entered = Device(900 * MIB), []
    cases = [
        replace(case_of(device, batch_size=1), enter=lambda name=name: entered.append(name))
        for name in ("one", "two")
    ]
    device.run(cases, config_of())
    assert entered == ["one", "two", "one"]


def test_another_fault_of_a_step_is_not_taken_for_want_of_memory() -> None:
    def fails(batch: dict[str, Any]) -> None:
        raise RuntimeError("shapes do not match")

    case = replace(case_of(Device(900 * MIB), batch_size=1), step=fails)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        dry_run(torch.nn.Linear(2, 2), [case], config_of(), "cpu")


def test_torchs_own_refusal_on_a_cpu_is_known_for_want_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("not enough memory"))
    assert room_of("cpu")() > 0


@pytest.mark.parametrize(
    ("tokens", "fits"), [((100,), False), ((100, 100), False), ((100, 300), True)]
)
def test_a_line_needs_two_sizes(tokens: Sequence[int], fits: bool) -> None:
    trials = [Trial(Load(1, each, 0), 1000 + each) for each in tokens]
    assert (fit_memory(trials) is not None) is fits


def test_the_line_is_the_law_and_never_below_what_was_measured() -> None:
    loads = [Load(1, 100, 20), Load(1, 300, 250), Load(2, 700, 100), Load(3, 1500, 900)]
    exact = fit_memory([Trial(load, int(LAW.predict(load))) for load in loads])
    assert exact is not None
    assert exact.per_place == pytest.approx(LAW.per_place, rel=1e-3)
    assert exact.per_image_token == pytest.approx(LAW.per_image_token, rel=1e-3)
    noisy = [
        Trial(load, int(LAW.predict(load) * factor))
        for load, factor in zip(loads, (1.1, 0.95, 1.0, 1.05), strict=True)
    ]
    line = fit_memory(noisy)
    assert line is not None
    assert all(line.predict(trial.load) >= trial.peak_bytes - 1 for trial in noisy)
    assert line.as_json()["per_place"] >= 0


def real_case(
    model: Any, boxes: tuple[int, int], size: int, step: Callable[[dict[str, Any]], None]
) -> PhaseCase:
    encoder = encoder_of("random-qwen2_5_vl")
    samples = [
        replace(table_sample(seed), messages=(*_longer(seed), table_sample(seed).messages[-1]))
        for seed in range(6)
    ]
    known, grid = SampleLengths.measure(samples, encoder), encoder.contract.grid.within(boxes)
    indices, rule = tuple(range(len(samples))), BatchRule(batch_size=size)
    tokens = [known.tokens(index, grid) for index in indices]
    plan = plan_batches(indices, tokens, [1.0] * len(indices), rule=rule, seed=0, epochs=1)
    collate = PhaseCollator(samples, encoder, "assistant", grid)
    phase = Phase(0, "real", grid, indices, plan.steps, 0, 1e-3)
    return PhaseCase(phase, plan.batches, rule, known, collate, step)


def _longer(seed: int) -> tuple[Any, ...]:
    (question,) = table_sample(seed).prompt
    return (replace(question, parts=(*question.parts, "word " * 6 * seed)),)


@pytest.fixture
def cheap_collections() -> Iterator[None]:
    """Each measured step begins with a garbage collection: it need not look at all of torch."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_collections")
def test_real_steps_leave_everything_as_it_was_and_their_proposal_fits() -> None:
    config = tiny_config(method="lora", batch_size=6)
    model, _ = load_trainable(config, base_of("random-qwen2_5_vl"), "float32")

    def step(batch: dict[str, Any]) -> None:
        model(**batch, use_cache=False).loss.backward()

    case = real_case(model, (112, 112), 6, step)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    (row,) = dry_run(model, [case], config.train, "cpu").phases
    assert row.peak_bytes > 5 * MIB
    assert row.load.samples == 6
    room = int(row.peak_bytes * 0.5) + row.optimizer_bytes
    with pytest.raises(StageError, match="does not fit into the") as caught:
        dry_run(model, [case], config.train, "cpu", lambda: room)
    (size,) = found(caught.value, r"train\.batch_size=(\d+)")
    assert 1 <= size <= 4
    smaller = real_case(model, (112, 112), size, step)
    assert dry_run(model, [smaller], config.train, "cpu", lambda: room).phases
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
