"""The measured peak of a block: what it held at its highest, and nothing from before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlmpipe.training import memory_peak
from vlmpipe.training.memory_peak import peak_memory

MIB = 1 << 20


def hold(mebibytes: int) -> torch.Tensor:
    return torch.ones(mebibytes * MIB // 4)


@pytest.fixture(params=["kernel's mark", "sampled"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sampled":
        monkeypatch.setattr(memory_peak, "_CLEAR_REFS", Path("/proc/nowhere/clear_refs"))
    return str(request.param)


def test_the_peak_is_what_was_held_at_once_not_what_is_left(way: str) -> None:
    before = hold(100)
    with peak_memory("cpu") as peak:
        first = hold(60)
        second = hold(40)
        del first
        third = hold(20)
    assert peak.bytes == pytest.approx(100 * MIB, rel=0.1)
    assert before.numel() + second.numel() + third.numel() == 160 * MIB // 4


def test_memory_that_was_freed_before_is_not_taken_for_nothing(way: str) -> None:
    """A heap that keeps freed pages would hide what the block takes from them."""
    many = [hold(1) for _ in range(80)]
    del many
    with peak_memory("cpu") as peak:
        again = [hold(1) for _ in range(80)]
    assert peak.bytes == pytest.approx(80 * MIB, rel=0.1)
    assert len(again) == 80


def test_the_peak_of_a_block_that_failed_is_known(way: str) -> None:
    with pytest.raises(ZeroDivisionError):
        failing_block()
    assert FAILED[-1].bytes == pytest.approx(50 * MIB, rel=0.1)


FAILED: list[memory_peak.MemoryPeak] = []


def failing_block() -> None:
    with peak_memory("cpu") as peak:
        FAILED.append(peak)
        _ = hold(50).numel() / 0
