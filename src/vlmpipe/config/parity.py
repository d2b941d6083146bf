"""Section `parity`: the ladder from adapter to served endpoint, and how far a rung may lie off."""

from __future__ import annotations

import difflib

from pydantic import Field, field_validator

from vlmpipe.config.base import QuantName, Section

MERGED, DRIFT, SERVED = "merged", "drift", "served"
BASE_TYPES = ("f16", "bf16")
"""16-bit types, one of which every conversion makes first."""

QUANT_TYPES = (
    *("f32", *BASE_TYPES, "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0"),
    *("q4_k_m", "q4_k_s", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "mxfp4_moe"),
    *("q3_k_l", "q3_k_m", "q3_k_s", "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs"),
    *("q2_k", "q2_k_s", "q2_0", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "tq2_0"),
    *("q1_0", "iq1_m", "iq1_s", "tq1_0"),
)
"""What llama.cpp's quantiser writes, held equal to the installed one by a test: asking it here
would cost its import at every command."""

VLLM_SCHEMES = ("fp8", "awq", "gptq")
LIMITED = (MERGED, DRIFT, SERVED, *VLLM_SCHEMES, *QUANT_TYPES)
"""Every name that `parity.max_kld` knows."""

SPOKEN = {"fold": MERGED}
"""What reports and guides call a rung, to its name."""

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
    trained on), a quant type or a scheme for vLLM by its name, `served`. What is not named here
    keeps its default."""

    @field_validator("max_kld")
    @classmethod
    def limits_are_of_known_rungs(cls, limits: dict[str, float]) -> dict[str, float]:
        """A misspelt name would leave the default in force without a word."""
        wrong = [_near_miss(name) for name in limits if name not in LIMITED]
        if wrong:
            known = ", ".join((MERGED, DRIFT, SERVED))
            raise ValueError(
                f"no rung is called {'; '.join(wrong)}. Known: {known}, {', '.join(VLLM_SCHEMES)}"
                " and the types of llama.cpp's quantiser, as convert.quants takes them"
            )
        return limits

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


def _near_miss(name: str) -> str:
    spoken = [SPOKEN[name]] if name in SPOKEN else []
    close = spoken or difflib.get_close_matches(name, LIMITED, n=1, cutoff=0.5)
    return f"{name}: did you mean {close[0]}?" if close else name
