"""The figures to see first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmpipe.evaluation.published import PublishedStage
from vlmpipe.evaluation.report.figures import bounds_of
from vlmpipe.evaluation.report.numbers import between, figure
from vlmpipe.tasks import task_of
from vlmpipe.tasks.metric_names import title_of

Stages = Mapping[str, PublishedStage]


@dataclass(frozen=True)
class Tile:
    """A figure to see first."""

    label: str
    value: float
    detail: str = ""


def tiles_of(stages: Stages, results: Mapping[str, Any]) -> list[Tile]:
    """Quality, image reliance, speed and divergence, as far as they were measured."""
    metrics = stages["validate"].manifest.metrics if "validate" in stages else {}
    name = str(results.get("primary_metric", ""))
    tiles = []
    for split, where in (("heldout", "held-out"), ("train", "training probes")):
        tuned = metrics.get(f"{split}/{name}/tuned")
        if tuned is not None:
            base = figure(metrics.get(f"{split}/{name}/base"))
            bounds = bounds_of((results.get("intervals") or {}).get(f"{split}/{name}/tuned"))
            sure = f"{between(bounds)}, " if bounds and between(bounds) else ""
            over = _samples(results, split, name)
            tiles.append(Tile(f"{title_of(name)}, {where}", tuned, f"{sure}base {base}{over}"))
    gain = metrics.get("reliance/image_gain/tuned")
    if gain is not None:
        tiles.append(Tile("image gain", gain, "nats a token, true against another's image"))
    speed = metrics.get("speed/tokens_per_second/tuned")
    if speed is not None:
        tiles.append(Tile("tokens a second", speed, "tuned, before conversion"))
    return [*tiles, *_parity_tile(stages)]


def _samples(results: Mapping[str, Any], split: str, metric: str) -> str:
    """`, 64 samples`: those of the tasks with this primary metric; empty where it is not known."""
    tasks = (results.get("tasks") or {}).get(split)
    count = (results.get("splits") or {}).get(split)
    if isinstance(tasks, dict):
        own = [each for task, each in tasks.items() if task_of(task).primary_metric == metric]
        count = sum(own) if own else count
    return f", {count} sample{'' if count == 1 else 's'}" if isinstance(count, int) else ""


def _parity_tile(stages: Stages) -> list[Tile]:
    """How far the recommended file lies from the adapter."""
    quant = _object(stages, "artifacts.json").get("recommended")
    rows = _object(stages, "quant_table.json").get("rows", [])
    found = [row.get("kld_adapter") for row in rows if row.get("quant") == quant]
    if not found or not isinstance(found[0], (int, float)):
        return []
    return [Tile("KL divergence, nats a token", found[0], f"{quant} from the adapter as trained")]


def _object(stages: Stages, name: str) -> dict[str, Any]:
    value = stages["convert"].read_json(name) if "convert" in stages else None
    return value if isinstance(value, dict) else {}
