"""Section `merge`: adapter into 16-bit weights."""

from __future__ import annotations

from typing import Literal

from vlmpipe.config.base import GateMode, Section


class MergeConfig(Section):
    """Folding the adapter into the base weights."""

    base: Literal["w16", "dequant", "auto"] = "w16"
    """What the adapter of a QLoRA training is folded into. w16: the base's own 16-bit weights;
    dequant: what its 4-bit weights really held, which is what the adapter was trained on, with
    their noise; auto: whichever of the two answers better. Other trainings have only w16."""

    gate: GateMode = "enforce"
    """convert refuses a merge whose fold, or drift, lies beyond `parity.max_kld`."""
