"""Settings chosen from measurements: what is chosen, why, and what is kept."""

from __future__ import annotations

import pytest

from serving_models import small_contract
from vlmpipe.serving.load import percentile
from vlmpipe.serving.trial import Measurement
from vlmpipe.serving.tuning import (
    Choice,
    choose_context,
    choose_threads,
    needed_context,
    thread_candidates,
)


class Machine:
    """Measurements of an imagined machine."""

    def __init__(self, seconds: dict[int, float], *, by: str, mib: float = 100.0) -> None:
        self._seconds, self._by, self._mib = seconds, by, mib
        self.asked: list[tuple[int, int]] = []

    def __call__(self, threads: int, n_ctx: int) -> Measurement:
        self.asked.append((threads, n_ctx))
        key = threads if self._by == "threads" else n_ctx
        return Measurement(threads, n_ctx, 1.0, self._seconds[key], 0.1, 10.0, self._mib, 8192)


@pytest.mark.parametrize(
    ("cores", "candidates"),
    [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (64, [8, 16, 32, 64])],
)
def test_candidates_are_few_and_end_with_every_core(cores: int, candidates: list[int]) -> None:
    assert thread_candidates(cores) == candidates


def test_the_quickest_answer_decides_the_threads_and_every_row_is_kept() -> None:
    machine = Machine({1: 3.0, 2: 1.0, 4: 2.0}, by="threads")
    choice = choose_threads(None, [1, 2, 4], machine, 1024)
    assert choice.value == 2
    assert [row["threads"] for row in choice.as_record["measured"]] == [1, 2, 4]


def test_threads_that_are_set_are_not_measured() -> None:
    machine = Machine({}, by="threads")
    assert choose_threads(7, [1, 2], machine, 1024) == Choice(7, "set by deploy.threads")
    assert machine.asked == []


def context(machine: Machine, *, trained: int = 8192, memory_mib: float = 1000.0) -> Choice:
    return choose_context(None, 1024, trained, machine, 2, memory_mib)


def test_the_longest_context_that_costs_no_time_is_chosen() -> None:
    assert context(Machine({1024: 1.0, 2048: 1.02, 4096: 1.08}, by="n_ctx")).value == 4096
    assert context(Machine({1024: 1.0, 2048: 1.02, 4096: 1.5}, by="n_ctx")).value == 2048


def test_a_context_beyond_what_the_model_was_made_for_is_not_tried() -> None:
    machine = Machine({1024: 1.0, 1500: 1.0}, by="n_ctx")
    assert context(machine, trained=1500).value == 1500
    assert [n_ctx for _, n_ctx in machine.asked] == [1024, 1500]


def test_a_context_that_fills_the_memory_is_left_alone() -> None:
    machine = Machine({1024: 1.0, 2048: 1.0, 4096: 1.0}, by="n_ctx", mib=900.0)
    assert context(machine, memory_mib=1000.0).value == 1024


def test_the_context_needed_holds_the_largest_image_a_question_and_the_answer() -> None:
    contract = small_contract("qwen2_5_vl")
    needed = needed_context(contract, 300)
    assert needed % 256 == 0
    assert needed >= contract.max_image_tokens + 300
    boxed = contract.model_copy(update={"max_size": (112, 112), "context_length": 100})
    assert needed_context(boxed, 300) < needed
    text = small_contract("qwen3")
    assert needed_context(text, 300) == 1024  # 600 for the data, 300 for the answer


def test_percentiles_are_values_that_were_seen() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert (percentile(values, 0.5), percentile(values, 0.95)) == (3.0, 5.0)
    assert percentile([7.0], 0.5) == 7.0
