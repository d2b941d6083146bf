"""Gates: a consumer refuses what failed, unless the configuration or the person lets it pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmpipe.errors import GateError
from vlmpipe.pipeline.manifest import VerdictRecord
from vlmpipe.pipeline.stage import ConfigLike, Stage
from vlmpipe.pipeline.store import Version

ALLOW_FLAG = "--allow-failed-gate"


@dataclass(frozen=True)
class GateDecision:
    """What one gate says to one consumer."""

    consumer: str
    gate: str
    version: str
    verdict: VerdictRecord
    mode: str
    allowed_by: str | None = None
    """What lets a failed verdict pass."""

    @property
    def refused(self) -> bool:
        """Whether the consumer must not run."""
        return not self.verdict.passed and self.allowed_by is None

    def as_record(self) -> dict[str, Any]:
        """For the consumer's manifest."""
        record: dict[str, Any] = {"passed": self.verdict.passed, "mode": self.mode}
        return record if self.allowed_by is None else {**record, "allowed_by": self.allowed_by}

    def as_error(self) -> GateError:
        """The refusal, with every way past it."""
        return GateError(
            f"{self.consumer} refuses {self.gate} {self.version}: its gate failed",
            f"let it pass this once: {ALLOW_FLAG}",
            f"only report it: {self.gate}.gate=report",
            f"or choose another version: --use {self.gate}=vNNN",
            problems=self.verdict.reasons,
        )


def gate_mode(config: ConfigLike, name: str) -> str:
    """`<stage>.gate` of the configuration; `off` for a stage that has none."""
    section = config.model_dump(mode="json", by_alias=True).get(name) or {}
    return str(section.get("gate", "off"))


def decide_gates(
    stage: Stage, upstream: Mapping[str, Version], config: ConfigLike, *, allow_failed: bool
) -> list[GateDecision]:
    """Each gating stage's decision; a stage that gave no verdict decides nothing."""
    decisions = []
    for name in stage.gated_by:
        version, mode = upstream[name], gate_mode(config, name)
        verdict = version.manifest.verdict
        if verdict is None:
            continue
        allowed = None if verdict.passed else _allowance(name, mode, allow_failed)
        decisions.append(
            GateDecision(stage.name, name, version.name, verdict, mode, allowed_by=allowed)
        )
    return decisions


def _allowance(name: str, mode: str, allow_failed: bool) -> str | None:
    if mode != "enforce":
        return f"{name}.gate={mode}"
    return ALLOW_FLAG if allow_failed else None
