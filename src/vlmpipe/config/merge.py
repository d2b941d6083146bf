"""Section `merge`: adapter into 16-bit weights."""

from __future__ import annotations

from pydantic import Field

from vlmpipe.config.base import GateMode, Section


class MergeConfig(Section):
    """Folding the adapter into the base weights."""

    max_shard_size: str = Field("5GB", pattern=r"^\d+(MB|GB)$")
    """Size of each safetensors file."""

    probes: int = Field(3, ge=1)
    """Samples answered before and after the merge."""

    max_loss_drift: float = Field(0.05, ge=0)
    """Largest change of the probes' mean target loss, in nats a token, from base + adapter on the
    same 16-bit weights to the merged model: what rounding may do."""

    gate: GateMode = "enforce"
    """convert refuses a merge whose loss drifted by more than `max_loss_drift`."""
