"""The control: the base model's own conversion tells the converter's fault from the training's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlmpipe.export.parity.gguf_rungs import Opener
from vlmpipe.export.parity.probes import ProbeSet
from vlmpipe.export.parity.records import RungRecord, compare
from vlmpipe.export.parity.references import Trained, whole_model
from vlmpipe.export.parity.rung import ask_rung

CONTROL = "base"


@dataclass(frozen=True)
class Blame:
    """Whose fault a failed conversion is."""

    at_fault: Literal["conversion", "fine-tune"]
    control: RungRecord

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"at_fault": self.at_fault, "control": self.control.as_record()}


def blame(
    trained: Trained,
    make_control: Callable[[Path], Opener],
    probes: ProbeSet,
    scratch: Path,
    *,
    limit: float,
) -> Blame:
    """Convert the untrained base in the same way, and hold it against itself.

    The conversion is at fault where the base differs from its own GGUF file too; where it does
    not, something that training changed is.
    """
    scratch.mkdir(parents=True)
    samples = probes.samples
    with whole_model(trained, trained.base.folder) as engine:
        above = ask_rung(
            engine, samples, scratch, name=f"{CONTROL} (hf)", max_new_tokens=1, answered=False
        )
    other = make_control(scratch)(CONTROL, "contract")
    try:
        below = ask_rung(
            other, samples, scratch, name=f"{CONTROL} (gguf)", max_new_tokens=1, answered=False
        )
    finally:
        other.close()
    record = compare(above, below, limit)
    return Blame("fine-tune" if record.passed else "conversion", record)
