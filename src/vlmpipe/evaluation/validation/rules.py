"""The rules that a tuned model is held against; each gives a sentence with its values."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlmpipe.evaluation.records import Record
from vlmpipe.evaluation.statistics import Interval, Paired
from vlmpipe.evaluation.validation.comparison import HELDOUT, TRAIN, TUNED, Comparison
from vlmpipe.evaluation.validation.forgetting import Forgetting
from vlmpipe.evaluation.validation.overfit import Gap, overfit_gaps
from vlmpipe.evaluation.validation.phases import PhaseTable, State
from vlmpipe.tasks import task_of
from vlmpipe.tasks.metric_names import smaller_is_better

RuleName = Literal["numbers", "thresholds", "overfit", "forgetting", "image_reliance", "phases"]


@dataclass(frozen=True)
class RuleVerdict:
    """What one rule says, in a sentence with its values."""

    name: RuleName
    passed: bool | None
    """None: not judged, and the sentence says why."""

    sentence: str

    def as_json(self) -> dict[str, Any]:
        """As results.json holds it."""
        return {"name": self.name, "passed": self.passed, "sentence": self.sentence}


def spread(interval: Interval | None, digits: int = 3, sign: str = "") -> str:
    """` (95 % interval 0.100 to 0.300)`; nothing where there is none."""
    if interval is None:
        return ""
    return f" (95 % interval {interval.low:{sign}.{digits}f} to {interval.high:{sign}.{digits}f})"


def numbers(
    metrics: Mapping[str, float], every: Mapping[str, Sequence[Record]]
) -> Iterator[RuleVerdict]:
    """Everything measured is a number, and every reference could be scored."""
    bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    for model, records in every.items():
        silent = sum(record.loss is None for record in records)
        if silent:
            bad.append(f"{silent} of {len(records)} references have no loss under {model}")
    if bad:
        sentence = f"the model's outputs are not numbers: {', '.join(bad)}"
        yield RuleVerdict("numbers", False, sentence)


def thresholds(
    metrics: Mapping[str, float], thresholds: Mapping[str, float]
) -> Iterator[RuleVerdict]:
    """No metric is on the wrong side of its threshold."""
    missed = [
        fault for name, limit in thresholds.items() if (fault := _fault(name, limit, metrics))
    ]
    for sentence in missed:
        yield RuleVerdict("thresholds", False, sentence)
    if thresholds and not missed:
        met = "; ".join(f"{name} is {metrics[name]:.4g}" for name in thresholds)
        yield RuleVerdict("thresholds", True, f"every threshold is met: {met}")


def _fault(name: str, limit: float, metrics: Mapping[str, float]) -> str | None:
    value = metrics.get(name)
    if value is None:
        return f"validate.thresholds names {name}, which was not measured{_near(name, metrics)}"
    costs = smaller_is_better(name.split("/")[1] if "/" in name else name)
    if costs and value > limit:
        return f"{name} is {value:.4g}, above its threshold {limit:g} (validate.thresholds)"
    if not costs and value < limit:
        return f"{name} is {value:.4g}, below its threshold {limit:g} (validate.thresholds)"
    return None


def _near(name: str, metrics: Mapping[str, float]) -> str:
    close = difflib.get_close_matches(name, metrics, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; measured: {', '.join(sorted(metrics))}" if metrics else "; nothing was measured"


def overfit(comparison: Comparison, most: float) -> Iterator[RuleVerdict]:
    """Each task's gap between training probes and held-out samples is small enough."""
    if not comparison.of(HELDOUT, TUNED):
        sentence = "over-fit not judged: no sample was held out (data.heldout_fraction)"
        yield RuleVerdict("overfit", None, sentence)
        return
    gaps = overfit_gaps(comparison)
    for task, gap in gaps.items():
        if gap is None:
            sentence = f"over-fit not judged: {_why_no_gap(comparison, task)}"
            yield RuleVerdict("overfit", None, sentence)
        else:
            yield _held_to(gap, most, of_task(task, len(gaps)))


def of_task(task: str, tasks: int) -> str:
    """` of table`, where there are several tasks."""
    return f" of {task}" if tasks > 1 else ""


def _why_no_gap(comparison: Comparison, task: str) -> str:
    counts = {split: len(comparison.of(split, TUNED, task)) for split in (TRAIN, HELDOUT)}
    if not counts[TRAIN]:
        return f"no training probe is of {task} (validate.train_probes)"
    if not counts[HELDOUT]:
        return (
            f"no held-out sample that was asked is of {task}"
            " (validate.heldout_samples, data.heldout_fraction)"
        )
    return f"{task_of(task).primary_metric} of {task} was not measured"


def _held_to(gap: Gap, most: float, place: str) -> RuleVerdict:
    values = (
        f"{gap.metric} of the tuned model is {gap.train:.3f} on training probes{place} and"
        f" {gap.heldout:.3f} on held-out samples{place}, a gap of"
        f" {gap.value:.3f}{spread(gap.interval)}"
    )
    if gap.value <= most:
        return RuleVerdict("overfit", True, f"{values}, within validate.max_overfit_gap {most:g}")
    sentence = f"over-fit: {values}, above validate.max_overfit_gap {most:g}{_doubt(gap, most)}"
    return RuleVerdict("overfit", False, sentence)


def _doubt(gap: Gap, most: float) -> str:
    if gap.interval is not None and gap.interval.low > most:
        return ""
    return (
        f"; not told apart from chance on {gap.counts}: ask more"
        " (validate.train_probes, validate.heldout_samples)"
    )


def forgetting(found: Forgetting | None, most: float | None) -> Iterator[RuleVerdict]:
    """The loss on the general probe has not risen by more than is allowed."""
    if found is None:
        return
    if found.change is None:
        yield RuleVerdict(
            "forgetting",
            None,
            f"forgetting not judged: the base itself does not know the general probe"
            f" ({found.base_loss:.2f} nats a token, guessing costs {found.guessing:.2f});"
            " give one that it knows: validate.general.path=FILE.jsonl",
        )
        return
    change = found.change
    plural = "" if change.samples == 1 else "s"
    values = (
        f"on {change.samples} general sample{plural} that the base knows ({found.known}) the loss"
        f" changed by {change.difference:+.3f} nats a token{spread(change.interval, sign='+')}"
    )
    if most is None:
        sentence = f"forgetting not judged (validate.max_forgetting is unset): {values}"
        yield RuleVerdict("forgetting", None, sentence)
    elif change.difference <= most:
        sentence = f"{values}, within validate.max_forgetting {most:g}"
        yield RuleVerdict("forgetting", True, sentence)
    else:
        low = change.interval.low if change.interval is not None else -math.inf
        doubt = "" if low > most else "; not told apart from chance: ask more (validate.general)"
        sentence = f"forgetting: {values}, above validate.max_forgetting {most:g}{doubt}"
        yield RuleVerdict("forgetting", False, sentence)


def image_reliance(comparison: Comparison, least: float) -> Iterator[RuleVerdict]:
    """The right image is worth enough."""
    measured = comparison.reliance.get(TUNED)
    if measured is None:
        why = comparison.reliance_unmeasured
        if least > 0 and comparison.has_images:
            sentence = f"validate.min_image_gain {least:g} could not be checked: {why}"
            yield RuleVerdict("image_reliance", False, sentence)
        elif why is not None:
            yield RuleVerdict("image_reliance", None, f"image reliance not measured: {why}")
        return
    interval = spread(measured.gain_intervals.get("image_gain"), 4, "+")
    if measured.image_gain < least:
        sentence = (
            f"image reliance: with another sample's image the tuned model's target loss changes by"
            f" {measured.image_gain:+.4f} nats a token{interval} ({measured.losses['true']:.4f}"
            f" with the true one), below validate.min_image_gain {least:g}: it answers from the"
            " language prior"
        )
        yield RuleVerdict("image_reliance", False, sentence)
        return
    sentence = (
        f"the true image is worth {measured.image_gain:+.4f} nats a token{interval} against"
        f" another's, {measured.blank_gain:+.4f} against a blank one"
    )
    yield RuleVerdict("image_reliance", True, sentence)


def phases(table: PhaseTable | None) -> Iterator[RuleVerdict]:
    """Told and never refused: whether a phase made the held-out loss worse."""
    if table is None:
        return
    where = place_of(table.split, len(table.states[0].losses))
    losses = " -> ".join(f"{state.name} {state.loss:.4f}" for state in table.states)
    if table.worse:
        sentence = f"made the loss on {where} worse: phase {_changes(table.worse)}"
        yield RuleVerdict("phases", None, sentence)
    if table.undecided:
        sentence = (
            f"the loss on {where} rose, not told apart from chance: phase"
            f" {_changes(table.undecided)}; {losses}"
        )
        yield RuleVerdict("phases", None, sentence)
    if not table.worse and not table.undecided:
        yield RuleVerdict("phases", True, f"no phase made the loss on {where} worse: {losses}")


def _changes(found: Sequence[tuple[State, Paired]]) -> str:
    return ", ".join(
        f"{state.name} ({change.difference:+.4f} nats a token{spread(change.interval, 4, '+')})"
        for state, change in found
    )


def place_of(split: str, count: int) -> str:
    """A split in words, for so many samples of it."""
    where = "training probe" if split == TRAIN else "held-out sample"
    return where if count == 1 else f"{where}s"
