"""Section `merge`: adapter into 16-bit weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlmpipe.config.base import GateMode, Section


class MergeConfig(Section):
    """Folding the adapter into the base weights."""

    base: Literal["w16", "dequant", "auto"] = "w16"
    """What the adapter of a QLoRA training is folded into. w16: the base's own 16-bit weights;
    dequant: what its 4-bit weights really held, which is what the adapter was trained on, with
    their noise; auto: whichever of the two answers better. Other trainings have only w16."""

    probes: int = Field(3, ge=1)
    """Samples answered before and after the merge."""

    max_loss_drift: float = Field(0.05, ge=0)
    """Largest change of the probes' mean target loss, in nats a token, from base + adapter on the
    same 16-bit weights to the merged model: what rounding may do."""

    gate: GateMode = "enforce"
    """convert refuses a merge whose loss drifted by more than `max_loss_drift`."""
