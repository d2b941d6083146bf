"""The parity ladder of a run, from whatever stages measured a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmpipe.evaluation.published import PublishedStage

PARITY_NAME = "parity.json"
ABOVE = ("deploy", "convert", "merge")
"""convert repeats what merge measured; deploy holds its own rung alone."""


def parity_of(stages: Mapping[str, PublishedStage]) -> dict[str, Any] | None:
    """Rungs in their order, the probe set, and the diagnosis of a rung that failed; None where
    nothing was measured.
    """
    ladders = {name: _ladder(stages[name]) for name in ABOVE if name in stages}
    whole = ladders.get("convert") or ladders.get("merge")
    served = ladders.get("deploy") or {}
    if not whole and not served:
        return None
    whole = whole or {}
    return {
        "rungs": [*_rows(whole), *_rows(served)],
        "probe": whole.get("probe") or served.get("probe") or {},
        "compute": whole.get("compute"),
        "served_probes": (served.get("probe") or {}).get("asked"),
        "diagnosis": whole.get("diagnosis"),
        "why": whole.get("why"),
    }


def _ladder(stage: PublishedStage) -> dict[str, Any] | None:
    value = stage.read_json(PARITY_NAME)
    return value if isinstance(value, dict) else None


def _rows(ladder: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = ladder.get("rungs")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
