"""Whether the tuned model may go on: thresholds, over-fit, image reliance."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vlmpipe.config.validate import ValidateConfig
from vlmpipe.evaluation.comparison import BASE, HELDOUT, TRAIN, TUNED, Comparison

COSTS = frozenset({"cer", "cut", "loss", "seconds_per_answer"})
"""Metrics of which a threshold states the largest value."""


@dataclass(frozen=True)
class Judgement:
    """Each rule that failed, as a sentence with its values; and what could not be judged."""

    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no rule failed."""
        return not self.reasons


def judge(comparison: Comparison, rules: ValidateConfig) -> Judgement:
    """Hold the metrics of a comparison against every rule of section `validate`."""
    metrics = comparison.metrics
    reasons = [
        *_not_numbers(metrics),
        *_thresholds(metrics, rules.thresholds),
        *_overfit(metrics, comparison.primary_metric, rules.max_overfit_gap),
        *_image_gain(comparison, rules.min_image_gain),
    ]
    return Judgement(tuple(reasons), tuple(_notes(comparison)))


def overfit_gap(metrics: Mapping[str, float], primary_metric: str) -> float | None:
    """Primary metric of the tuned model on training probes minus held-out; None unmeasured."""
    train = metrics.get(f"{TRAIN}/{primary_metric}/{TUNED}")
    heldout = metrics.get(f"{HELDOUT}/{primary_metric}/{TUNED}")
    return None if train is None or heldout is None else train - heldout


def _not_numbers(metrics: Mapping[str, float]) -> Iterator[str]:
    for name, value in metrics.items():
        if not math.isfinite(value):
            yield f"{name} is {value}: the model's outputs are not numbers"


def _thresholds(metrics: Mapping[str, float], thresholds: Mapping[str, float]) -> Iterator[str]:
    for name, limit in thresholds.items():
        value = metrics.get(name)
        if value is None:
            yield f"validate.thresholds names {name}, which was not measured{_near(name, metrics)}"
        elif _smaller_is_better(name):
            if value > limit:
                yield f"{name} is {value:.4g}, above its threshold {limit:g} (validate.thresholds)"
        elif value < limit:
            yield f"{name} is {value:.4g}, below its threshold {limit:g} (validate.thresholds)"


def _smaller_is_better(name: str) -> bool:
    """Whether a metric `split/metric/model` counts what is wrong, or takes time."""
    metric = name.split("/")[1] if name.count("/") == 2 else ""
    return metric in COSTS or metric.startswith("loss_")


def _near(name: str, metrics: Mapping[str, float]) -> str:
    close = difflib.get_close_matches(name, metrics, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; measured: {', '.join(sorted(metrics))}" if metrics else "; nothing was measured"


def _overfit(metrics: Mapping[str, float], primary_metric: str, most: float) -> Iterator[str]:
    gap = overfit_gap(metrics, primary_metric)
    if gap is not None and gap > most:
        train = metrics[f"{TRAIN}/{primary_metric}/{TUNED}"]
        heldout = metrics[f"{HELDOUT}/{primary_metric}/{TUNED}"]
        yield (
            f"over-fit: {primary_metric} of the tuned model is {train:.3f} on training probes and"
            f" {heldout:.3f} on held-out samples, a gap of {gap:.3f} above"
            f" validate.max_overfit_gap {most:g}"
        )


def _image_gain(comparison: Comparison, least: float) -> Iterator[str]:
    measured = comparison.reliance.get(TUNED)
    if measured is None:
        if least > 0 and comparison.has_images:
            yield (
                f"validate.min_image_gain {least:g} could not be checked:"
                f" {comparison.reliance_unmeasured}"
            )
    elif measured.image_gain < least:
        yield (
            f"image reliance: with another sample's image the tuned model's target loss changes by"
            f" {measured.image_gain:+.4f} nats a token ({measured.losses['true']:.4f} with the true"
            f" one), below validate.min_image_gain {least:g}: it answers from the language prior"
        )


def _notes(comparison: Comparison) -> Iterator[str]:
    if not comparison.of(HELDOUT, TUNED):
        yield "over-fit not judged: no sample was held out (data.heldout_fraction)"
    if comparison.reliance_unmeasured:
        yield f"image reliance not measured: {comparison.reliance_unmeasured}"
    cut = sum(answer.cut for answer in comparison.answers if answer.model == TUNED)
    if cut:
        asked = sum(answer.model == TUNED for answer in comparison.answers)
        yield (
            f"{cut} of {asked} tuned answers were cut at validate.max_new_tokens"
            f" and are measured as they stand"
        )


def summary_of(comparison: Comparison, judgement: Judgement) -> tuple[str, ...]:
    """Lines for the person who watches: the primary metric, the image gain, the notes."""
    lines = [line for split in (TRAIN, HELDOUT) if (line := _primary_line(comparison, split))]
    measured = comparison.reliance.get(TUNED)
    if measured is not None:
        lines.append(
            f"image reliance: the true image is worth {measured.image_gain:+.4f} nats a token"
            f" against another's, {measured.blank_gain:+.4f} against a blank one"
        )
    return (*lines, *judgement.notes)


def _primary_line(comparison: Comparison, split: str) -> str | None:
    name, count = comparison.primary_metric, len(comparison.of(split, TUNED))
    base = comparison.metrics.get(f"{split}/{name}/{BASE}")
    tuned = comparison.metrics.get(f"{split}/{name}/{TUNED}")
    if base is None or tuned is None:
        return None
    where = "training probe" if split == TRAIN else "held-out sample"
    where += "" if count == 1 else "s"
    return f"{name} on {count} {where}: base {base:.3f}, tuned {tuned:.3f}"
