"""Which base an adapter is folded into: the one asked for, or the one that answers better."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.export.merging.merged_model import FoldBase, Merged, write_merged
from vlmpipe.export.parity.merged_rungs import MergedRungs, UpperLadder, judge
from vlmpipe.export.parity.references import Trained
from vlmpipe.pipeline.events import Reporter


@dataclass(frozen=True)
class Candidate:
    """One merged folder, and what the probes say of it."""

    merged: Merged
    rungs: MergedRungs

    @property
    def loss(self) -> float:
        """Mean target loss, nats a token."""
        return self.rungs.merged.distributions.loss

    @property
    def metric(self) -> float:
        """Mean primary task metric."""
        answers = self.rungs.merged.answers
        return answers.metric if answers else 0.0

    def as_record(self) -> dict[str, Any]:
        """What both are compared by."""
        drift = self.rungs.drift or self.rungs.fold
        return {
            "loss": round(self.loss, 6),
            "metric": round(self.metric, 6),
            "kld_adapter": drift.kld_mean,
        }


@dataclass(frozen=True)
class Choice:
    """The candidate that was kept."""

    kept: Candidate
    all: Sequence[Candidate]
    why: str

    @property
    def merged(self) -> Merged:
        """The folder that is handed on."""
        return self.kept.merged

    @property
    def rungs(self) -> MergedRungs:
        """What the probes say of it."""
        return self.kept.rungs

    @property
    def lines(self) -> list[str]:
        """For the person who watches."""
        return [f"folded into {self.merged.fold_base}: {self.why}"] if len(self.all) > 1 else []

    def as_record(self) -> dict[str, Any]:
        """Both candidates, for merge_info.json."""
        found = {each.merged.fold_base: each.as_record() for each in self.all}
        return {"base": self.merged.fold_base, "why": self.why, "candidates": found}


def fold_bases(config: Config, trained: Trained) -> list[FoldBase]:
    """What to fold into: for `auto` both, where there are 4-bit weights to fold into at all."""
    if config.merge.base != "auto":
        return [config.merge.base]
    return ["w16", "dequant"] if trained.on_4bit else ["w16"]


def fold_best(
    trained: Trained,
    bases: Sequence[FoldBase],
    upper: UpperLadder,
    folder: Path,
    reporter: Reporter,
) -> Choice:
    """Fold into each base, ask each result, and keep one as `folder/model`.

    Raises:
        StageError: when the trained weights do not fit the base.
        ConfigError: when there are no 4-bit weights to fold into.
    """
    candidates = []
    for base in bases:
        target = folder / (f"model-{base}" if len(bases) > 1 else "model")
        target.mkdir()
        reporter.note(f"folding into {base}")
        merged = write_merged(
            trained.config, trained.base, trained.folder, trained.contract, target, method=base
        )
        candidates.append(Candidate(merged, upper.climb(target, base, merged.report.dtype)))
    kept, why = better(candidates)
    return Choice(_placed(kept, candidates, folder / "model"), candidates, why)


def better(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """The candidate with the better task metric; among equals, the one with the lower loss.

    One that lies within its limits comes before one that does not.
    """
    best = min(candidates, key=_order)
    if len(candidates) == 1:
        return best, "asked for"
    other = next(each for each in candidates if each is not best)
    if judge(best.rungs).passed != judge(other.rungs).passed:
        return best, f"the other fails its gate: {judge(other.rungs).reasons[0]}"
    if best.metric == other.metric:
        return best, f"target loss {best.loss:.4f} against {other.loss:.4f}, task metric the same"
    return best, (
        f"task metric {best.metric:.4f} against {other.metric:.4f},"
        f" target loss {best.loss:.4f} against {other.loss:.4f}"
    )


def _order(candidate: Candidate) -> tuple[bool, float, float]:
    loss = candidate.loss if isfinite(candidate.loss) else float("inf")
    return not judge(candidate.rungs).passed, -candidate.metric, loss


def _placed(kept: Candidate, candidates: Sequence[Candidate], target: Path) -> Candidate:
    for each in candidates:
        if each is not kept:
            shutil.rmtree(each.merged.folder)
    if kept.merged.folder != target:
        kept.merged.folder.rename(target)
    return replace(kept, merged=replace(kept.merged, folder=target))
