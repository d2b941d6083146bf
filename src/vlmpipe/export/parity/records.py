"""One comparison of the ladder as `parity.json` states it, and its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from vlmpipe.export.parity.divergence import IncomparableError, divergence, exact_match
from vlmpipe.export.parity.rung import Rung


@dataclass(frozen=True)
class RungRecord:
    """A rung held against another one."""

    rung: str
    against: str
    kld_mean: float | None
    """Nats a token; None where the two cannot be compared."""

    kld_p99: float | None
    top1_agreement: float | None
    exact_match: float | None
    """Share of greedy answers that are the same, word for word; None where none were asked for."""

    metric: float | None
    """Mean primary task metric of the rung's own answers."""

    loss: float | None
    """Mean target loss of the rung, nats a token; None where it was not asked."""

    limit: float | None
    """Largest mean KL divergence allowed; None where it is only reported."""

    passed: bool
    why: str | None = None
    """What was found, where it did not pass."""

    worst_probe: int | None = None
    """Index of the probe that lies furthest off."""

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values, numbers rounded to what they can bear."""
        values = asdict(self)
        return {key: rounded(value) for key, value in values.items()}

    @property
    def line(self) -> str:
        """For the person who watches."""
        if self.kld_mean is None:
            return f"{self.rung} against {self.against}: {self.why}"
        words = [f"KLD {self.kld_mean:.2g} (p99 {self.kld_p99:.2g})"]
        words.append(f"top-1 {self.top1_agreement:.4f}")
        if self.exact_match is not None:
            words.append(f"same answers {self.exact_match:.0%}")
        if self.limit is not None:
            words.append(f"limit {self.limit:g}" + ("" if self.passed else ": FAILED"))
        return f"{self.rung} against {self.against}: {', '.join(words)}"


def compare(
    reference: Rung, other: Rung, limit: float | None, *, name: str | None = None
) -> RungRecord:
    """Hold a rung against a reference; with a limit it passes or fails, without it is reported.

    `name` replaces the rung's own in the record.
    """
    common: dict[str, Any] = {
        "rung": name or other.name,
        "against": reference.name,
        "exact_match": exact_match(reference.answers, other.answers),
        "metric": other.answers.metric if other.answers else None,
        "loss": other.distributions.loss,
        "limit": limit,
    }
    try:
        found = divergence(reference.distributions, other.distributions)
    except IncomparableError as exc:
        common |= dict.fromkeys(("kld_mean", "kld_p99", "top1_agreement"))
        return RungRecord(**common, passed=False, why=str(exc))
    passed = limit is None or found.kld_mean <= limit  # false for NaN too
    why = None if passed else f"KL divergence {found.kld_mean:.3g} nats a token, limit {limit:g}"
    return RungRecord(
        **common,
        kld_mean=found.kld_mean,
        kld_p99=found.kld_p99,
        top1_agreement=found.top1_agreement,
        passed=passed,
        why=why,
        worst_probe=found.worst,
    )


def not_asked(name: str, reference: Rung, why: str) -> RungRecord:
    """A rung that could not be asked, and is only reported."""
    nothing = dict.fromkeys(
        ("kld_mean", "kld_p99", "top1_agreement", "exact_match", "metric", "loss", "limit")
    )
    return RungRecord(rung=name, against=reference.name, **nothing, passed=False, why=why)


def metrics_of(records: Sequence[RungRecord]) -> dict[str, float]:
    """The records as a flat map of numbers, `parity/f16/merged/kld_mean` and so on."""
    names = ("kld_mean", "kld_p99", "top1_agreement", "exact_match", "metric")
    found = {
        f"parity/{record.rung}/{record.against}/{name}": getattr(record, name)
        for record in records
        for name in names
    }
    return {key: value for key, value in found.items() if value is not None and isfinite(value)}


def from_rows(rows: Sequence[Mapping[str, Any]]) -> list[RungRecord]:
    """Records as they were written."""
    return [RungRecord(**row) for row in rows]


def rounded(value: Any) -> Any:
    """Six significant digits; what is not finite, which JSON cannot hold, as None."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if isfinite(value) else None
