"""The last rung of the parity ladder, as deploy's `parity.json` states it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from vlmpipe.export.parity.records import rounded


@dataclass(frozen=True)
class Limits:
    """What the rung may lie off."""

    kld: float
    """Largest mean KL divergence, nats a token."""

    exact_match: float
    """Smallest share of equal answers."""


@dataclass(frozen=True)
class ServedRung:
    """As `parity.json` states it; None where nothing could be compared."""

    rung: str
    against: str
    kld_mean: float | None
    """KL(in process || served), nats a token, over the served likeliest tokens and the rest."""

    kld_p99: float | None
    top1_agreement: float | None
    exact_match: float | None
    metric: float | None
    """Mean primary task metric of the served answers."""

    limit: float
    min_exact_match: float
    passed: bool
    why: str | None
    top_k: int
    """Likeliest tokens that were asked for."""

    logprob_max_abs_diff: float | None
    """Over the likeliest tokens of both sides."""

    logprob_mean_abs_diff: float | None
    answers: int
    """Compared."""

    tokens: int
    left_out: int
    """Probes beyond the service's own limits."""

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values, numbers rounded to what they can bear."""
        return {key: rounded(value) for key, value in asdict(self).items()}

    def metrics(self) -> dict[str, float]:
        """Flat numbers for the manifest."""
        names = ("kld_mean", "kld_p99", "top1_agreement", "exact_match", "metric")
        found = {f"deploy/parity/{name}": getattr(self, name) for name in names}
        return {key: value for key, value in found.items() if value is not None and isfinite(value)}

    @property
    def line(self) -> str:
        """For the person who watches."""
        where = f"served against {self.against}"
        if not self.passed:
            return f"{where}: FAILED: {self.why}"
        return (
            f"{where}: KLD {self.kld_mean:.2g} (p99 {self.kld_p99:.2g}),"
            f" top-1 {self.top1_agreement:.4f}, same answers {self.exact_match:.0%}"
            f" over {self.answers} probes"
        )
