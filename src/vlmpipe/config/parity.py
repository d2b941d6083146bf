"""Section `parity`: the ladder from adapter to served endpoint, and how far a rung may lie off."""

from __future__ import annotations

from pydantic import Field, field_validator

from vlmpipe.config.base import QuantName, Section

MERGED, DRIFT, SERVED = "merged", "drift", "served"
BASE_TYPES = ("f16", "bf16")
"""16-bit types, one of which every conversion makes first."""

MAX_KLD = {
    MERGED: 1e-3,
    DRIFT: 0.3,
    "f16": 2e-3,
    "bf16": 2e-3,
    "q8_0": 5e-3,
    "q6_k": 0.01,
    "q5_k_m": 0.02,
    "q5_k_s": 0.02,
    "q4_k_m": 0.05,
    "q4_k_s": 0.06,
    SERVED: 1e-3,
}
"""Nats a token. The quantised ones are about twice what llama.cpp publishes for 8B models, whose
texts hold no image."""

MAX_KLD_OF_OTHERS = 0.15
"""For every other quant type: those of about 3 bits."""


class ParityConfig(Section):
    """One frozen set of samples, asked of the model at every hand-off."""

    probes: int = Field(32, ge=1)
    """Samples asked of every rung: held-out ones, odd image sizes first among them, filled up with
    training ones where there are too few."""

    max_new_tokens: int = Field(512, ge=1)
    """A probe's answer is cut here."""

    max_kld: dict[QuantName, float] = Field(default_factory=dict)
    """Largest mean KL divergence of a rung from the one above, in nats a token: `merged` (against
    base and adapter on the same base), `drift` (merged against the adapter on the base it was
    trained on), a quant type by its name, `served`. What is not named here keeps its default."""

    @field_validator("max_kld")
    @classmethod
    def limits_are_not_negative(cls, limits: dict[str, float]) -> dict[str, float]:
        """No divergence is below zero, so such a limit could never be met."""
        wrong = [f"{name}: {value}" for name, value in limits.items() if value < 0]
        if wrong:
            raise ValueError(f"a limit below 0 cannot be met: {', '.join(wrong)}")
        return limits

    def limit(self, rung: str) -> float:
        """The rung's largest mean KL divergence."""
        return self.max_kld.get(rung, MAX_KLD.get(rung, MAX_KLD_OF_OTHERS))
