"""Section `validate`: probes, thresholds, the gate."""

from __future__ import annotations

from pydantic import Field

from vlmpipe.config.base import GateMode, Section
from vlmpipe.config.judge import JudgeConfig


class ValidateConfig(Section):
    """Base against tuned."""

    train_probes: int = Field(5, ge=1)
    """Training samples asked back, to see whether they were learned."""

    heldout_samples: int = Field(16, ge=1)
    """Held-out samples asked, at most."""

    max_new_tokens: int = Field(512, ge=1)
    """An answer is cut here, and counted as cut."""

    thresholds: dict[str, float] = Field(default_factory=dict)
    """Smallest value of any metric of this stage, e.g. `{"heldout/teds/tuned": 0.9}`; the largest
    of `cer`, `cut`, `loss` and `seconds_per_answer`. A name that the stage does not measure fails
    the gate."""

    max_overfit_gap: float = Field(0.5, ge=0, le=1)
    """Over-fit when the primary metric on training probes exceeds the held-out one by more."""

    min_image_gain: float = Field(0.05)
    """Image reliance: mean target loss, in nats a token, with another sample's image minus that
    with the true one. Below this the model answers from the language prior, and the gate refuses.
    Does not apply to text-only models."""

    gate: GateMode = "enforce"
    """merge refuses an adapter whose verdict failed, unless told `--allow-failed-gate`."""

    judge: JudgeConfig | None = None
    """A language model that judges the answers as well; off unless given."""
