"""What a training decides before its model is loaded, and how little it reads for that."""

from __future__ import annotations

import gc
import math
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import pytest
from datasets import Dataset

from model_folders import table_sample
from training_runs import base_of, samples_for, tiny_config
from vlmpipe.config import Config, parse_config
from vlmpipe.data.rows import features, to_row, write_parquet
from vlmpipe.data.store import load_split
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.errors import BadSamplesError, StageError
from vlmpipe.training.augment import KernelLot
from vlmpipe.training.batching.collator import PhaseCollator
from vlmpipe.training.batching.rows import Row
from vlmpipe.training.limits import CONTEXT_STEP
from vlmpipe.training.preparation import Preparation, TrainingData, prepare, repacked
from vlmpipe.training.vision_cache.jobs import SampleBook, prepared_ahead

VISION = "random-qwen2_5_vl"
HELD_AT_ONCE = 3
"""The sample looked at, the one before that a loop variable still names, and one in making."""


class Watched(Sequence[Sample]):
    """Makes each sample anew, counts how often, and how many are alive at once."""

    def __init__(self, count: int, make: Callable[[int], Sample] = table_sample) -> None:
        self._count = count
        self._make = make
        self._alive = 0
        self.reads: Counter[int] = Counter()
        self.most_alive = 0

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        sample = self._make(index)
        self.reads[index] += 1
        self._alive += 1
        self.most_alive = max(self.most_alive, self._alive)
        weakref.finalize(sample.images[0], self._forget)
        return sample

    def _forget(self) -> None:
        self._alive -= 1

    def column(self, name: str) -> list[Any]:
        return [getattr(self._make(index), name) for index in range(self._count)]


def data_of(train: Sequence[Sample], heldout: Sequence[Sample] = ()) -> TrainingData:
    return TrainingData(train=train, heldout=heldout, weights=[1.0] * len(train))


def prepared(config: Config, data: TrainingData, processes: int = 1) -> Preparation:
    return prepare(config, base_of(VISION), data, processes)


def test_samples_are_read_once_and_a_few_are_held_at_a_time() -> None:
    train, heldout = Watched(40), Watched(10)
    gc.disable()  # what holds no cycle goes at once
    try:
        preparation = prepared(tiny_config(packing="auto"), data_of(train, heldout))
        first = Counter(train.reads)
        repacked(preparation, False, base_of(VISION), data_of(train, heldout))
    finally:
        gc.enable()
    assert set(heldout.reads.values()) == {1}
    assert len(train.reads) == 40
    # Once each; the longest of each phase is read again for its name.
    assert sum(first.values()) <= 40 + 2
    assert sum(train.reads.values()) <= 40 + 4
    assert max(train.most_alive, heldout.most_alive) <= HELD_AT_ONCE


def test_the_context_holds_the_longest_sample_and_its_answer_again() -> None:
    samples = [table_sample(seed) for seed in range(3)]
    long = table_sample(3)
    answer = Message("assistant", ("<td>4</td>" * 200,))
    held = Sample("long", (long.messages[0], answer), "table")
    preparation = prepared(tiny_config(), data_of(samples, [held]))
    encoder = preparation.encoder
    whole = encoder.token_count(held.messages)
    words = len(encoder.tokenizer(answer.text, add_special_tokens=False)["input_ids"]) + 1
    needed = math.ceil((whole + words) / CONTEXT_STEP) * CONTEXT_STEP
    assert encoder.contract.context_length == needed
    assert encoder.contract.rendered


def uneven(count: int) -> list[Sample]:
    """Samples whose lengths differ, so that batches by tokens depend on the draw."""
    return [
        replace(each, messages=(*each.prompt, Message("assistant", ("x1 " * (5 * n % 83 + 1),))))
        for n, each in enumerate(samples_for(VISION, count))
    ]


@pytest.mark.parametrize("packing", ["off", "auto"])
def test_epochs_are_counted_as_the_phase_draws_them_without_what_is_too_long(packing: str) -> None:
    samples = uneven(60)
    phases = [{"name": name, "max_size": [112, 112], "epochs": 1} for name in ("a", "b", "c", "d")]
    settings = {
        "curriculum": phases,
        "batch_tokens": 300,
        "packing": packing,
        "max_length": 200,
        "gradient_accumulation": 1,
        "lora": {"r": 4},
    }
    config = parse_config({"train": settings, "data": {"on_bad_sample": "skip"}})
    preparation = prepared(config, data_of(samples))
    for phase, row in zip(preparation.phases, preparation.length_audit.phases, strict=True):
        assert 0 < len(row.dropped) < 60
        plan = preparation.plan(phase)
        # One step is one micro-batch: a pass is exact, each kept sample is seen once.
        assert sorted(each.sample for each in plan.rows) == sorted(phase.indices)
        assert plan.figures.passes == 1
        assert plan.steps == phase.steps


def test_a_part_of_a_pass_is_counted_by_the_phases_own_draw() -> None:
    part = {"max_size": [112, 112], "epochs": 0.4}
    phases = [{"name": str(number), **part} for number in range(8)]
    config = tiny_config(curriculum=phases, batch_tokens=300, gradient_accumulation=1)
    preparation = prepared(config, data_of(uneven(60)))
    batching = preparation.batching
    counted = {
        number: [
            batching.plan(phase.indices, phase.grid, seed, epochs=0.4).steps
            for phase, seed in zip(preparation.phases, seeds, strict=True)
        ]
        for number, seeds in {"own": range(8), "first": [0] * 8}.items()
    }
    assert [phase.steps for phase in preparation.phases] == counted["own"]
    assert counted["own"] != counted["first"]


def test_a_phase_left_without_samples_is_refused_though_it_counts_epochs() -> None:
    phases = [{"name": "a", "max_size": [112, 112], "epochs": 1}]
    settings = {"train": {"curriculum": phases, "max_length": 16}}
    config = parse_config({**settings, "data": {"on_bad_sample": "skip"}})
    with pytest.raises(BadSamplesError, match="a phase would be left without samples"):
        prepared(config, data_of(samples_for(VISION)))


class Unreadable(Watched):
    """A table whose rows cannot be made, as with a damaged file."""

    def __getitem__(self, index: Any) -> Any:
        raise ValueError("broken row")


def collator_over(samples: Sequence[Sample]) -> PhaseCollator:
    encoder: Encoder = prepared(tiny_config(), data_of(samples_for(VISION))).encoder
    return PhaseCollator(samples, encoder, "assistant", encoder.contract.grid)


def test_what_cannot_be_read_is_told_by_file_and_line_where_the_data_can_tell() -> None:
    samples = Unreadable(3)
    with pytest.raises(StageError, match=r"number 2 \(test:2\) cannot be encoded.*broken row"):
        collator_over(samples)([Row(2)])
    with pytest.raises(BadSamplesError, match=r"sample 2 \(test:2\) cannot be used: broken row"):
        SampleBook(samples).known(2)


def test_a_damaged_picture_of_prepared_data_is_told_by_file_and_line(tmp_path: Path) -> None:
    rows = [to_row(sample, 1.0) for sample in samples_for(VISION, 3)]
    rows[1]["pictures"] = [rows[1]["pictures"][0][:200]]
    write_parquet(Dataset.from_list(rows, features=features()), tmp_path / "train.parquet")
    samples = load_split(tmp_path, "train")
    collate = collator_over(samples)
    assert collate([Row(0)])["pixel_values"].shape[0]
    with pytest.raises(StageError, match=r"sample s1 \(test:1\) cannot be encoded"):
        collate([Row(1)])
    book, grid = SampleBook(samples), collate._grid
    jobs = book.jobs_of([Row(0), Row(1)], grid, KernelLot(("bicubic",), 0), 0)
    with pytest.raises(BadSamplesError, match=r"sample s1 \(test:1\) cannot be used"):
        list(prepared_ahead(jobs, book))
