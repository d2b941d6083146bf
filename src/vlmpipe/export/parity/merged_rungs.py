"""The ladder's upper part: adapter as trained, adapter on the merge's own base, merged.

Two questions, kept apart. Is the fold right: merged against the adapter on the same base. How far
is it from the model that was trained: merged against the adapter on its 4-bit base (drift).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vlmpipe.config.parity import DRIFT, MERGED, ParityConfig
from vlmpipe.engines.base import ForcingEngine
from vlmpipe.export.parity.probes import ProbeSet
from vlmpipe.export.parity.records import RungRecord, compare
from vlmpipe.export.parity.references import (
    ADAPTER,
    SAME_BASE,
    Trained,
    as_trained,
    on_16_bit,
    whole_model,
)
from vlmpipe.export.parity.rung import Rung, Step, ask_rung
from vlmpipe.pipeline import Verdict


@dataclass(frozen=True)
class MergedRungs:
    """What the probes say of one merged folder."""

    base: str
    """`w16` or `dequant`: what the adapter was folded into."""

    fold: RungRecord
    drift: RungRecord | None
    """None where the fold's reference is the model as it was trained."""

    merged: Rung

    @property
    def records(self) -> list[RungRecord]:
        """In the order of the ladder."""
        return [self.fold, *([self.drift] if self.drift else [])]


class UpperLadder:
    """Asks the references once, and each merged candidate after them."""

    def __init__(
        self, trained: Trained, probes: ProbeSet, scratch: Path, step: Step = lambda: None
    ) -> None:
        self._trained = trained
        self._probes = probes
        self._scratch = scratch
        self._step = step
        self._rules: ParityConfig = trained.config.parity
        self._same_base: dict[str, Rung] = {}

    @cached_property
    def adapter(self) -> Rung:
        """The model as it was trained, asked when it is first needed."""
        return self._ask(lambda: as_trained(self._trained), ADAPTER)

    def climb(self, folder: Path, base: str, dtype: str) -> MergedRungs:
        """Ask a merged folder whose adapter was folded into `base`, held in `dtype`."""
        trained = self._trained
        merged = self._ask(
            lambda: whole_model(trained, folder),
            f"{MERGED}-{base}",
        )
        same = self._reference(base, dtype)
        fold = compare(same, merged, self._rules.limit(MERGED), name=MERGED)
        drift = None
        if same is not self.adapter:
            drift = compare(self.adapter, merged, self._rules.limit(DRIFT), name=MERGED)
        return MergedRungs(base, fold, drift, merged)

    def _reference(self, base: str, dtype: str) -> Rung:
        """The rung that answers whether the fold is right."""
        if base == "dequant" or not self._trained.on_4bit:
            return self.adapter
        if dtype not in self._same_base:
            self._same_base[dtype] = self._ask(
                lambda: on_16_bit(self._trained, dtype), SAME_BASE, answered=False
            )
        return self._same_base[dtype]

    def _ask(
        self,
        engine: Callable[[], AbstractContextManager[ForcingEngine]],
        name: str,
        *,
        answered: bool = True,
    ) -> Rung:
        with engine() as opened:
            return ask_rung(
                opened,
                self._probes.samples,
                self._scratch,
                name=name,
                max_new_tokens=self._rules.max_new_tokens,
                answered=answered,
                step=self._step,
            )


def judge(rungs: MergedRungs) -> Verdict:
    """Whether the fold is right, and the merged model near enough to the trained one."""
    reasons = []
    if not rungs.fold.passed:
        reasons.append(f"the fold: {rungs.fold.why} (parity.max_kld.{MERGED})")
    if rungs.drift and not rungs.drift.passed:
        reasons.append(f"drift from the trained model: {rungs.drift.why} (parity.max_kld.{DRIFT})")
    return Verdict(not reasons, tuple(reasons))
