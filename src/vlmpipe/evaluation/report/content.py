"""Everything that the page shows, as plain values by name."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlmpipe.evaluation.published import PublishedStage, published_stages
from vlmpipe.evaluation.report.budget import drawings, pictures
from vlmpipe.evaluation.report.engines import contracts_differ, identities, side_by_side
from vlmpipe.evaluation.report.figures import (
    CONDITIONS,
    metric_tables,
    reliance_rows,
    spaced,
    speed_table,
)
from vlmpipe.evaluation.report.gallery import galleries
from vlmpipe.evaluation.report.learning import forgetting_table, phase_table
from vlmpipe.evaluation.report.lineage import lineage_of
from vlmpipe.evaluation.report.loss_curve import loss_curves
from vlmpipe.evaluation.report.opinions import opinions_of
from vlmpipe.evaluation.report.parity import parity_of
from vlmpipe.evaluation.report.pictures import Pictures
from vlmpipe.evaluation.report.quant_plot import quant_plot
from vlmpipe.evaluation.report.serving import serving_commands
from vlmpipe.evaluation.report.stages import gate_rows, stage_rows
from vlmpipe.evaluation.report.survey import survey_of
from vlmpipe.evaluation.report.tiles import tiles_of
from vlmpipe.evaluation.report.training_events import noticed, trained_phases
from vlmpipe.evaluation.report.verdicts import verdict_rows
from vlmpipe.evaluation.validation.results import RESULTS_NAME
from vlmpipe.tasks.metric_names import title_of

Stages = Mapping[str, PublishedStage]


def gather(run_folder: Path, cached: frozenset[str]) -> dict[str, Any]:
    """The template's variables, from whatever stages are published."""
    stages = published_stages(run_folder)
    gates = gate_rows(stages)
    results = _json_object(stages, "validate", RESULTS_NAME)
    return {
        "run": run_folder.resolve().name,
        "model": _json_object(stages, "setup", "model.json"),
        "stages": stage_rows(stages, cached),
        "gates": gates,
        "failed_gates": [gate for gate in gates if not gate.passed],
        "verdicts": verdict_rows(results),
        "tiles": tiles_of(stages, results),
        "lineage": lineage_of(stages),
        "training": _training(stages, results),
        "validation": _validation(stages, results),
        "engines": _engines(run_folder),
        "opinions": opinions_of(run_folder),
        "galleries": galleries(
            run_folder,
            stages.get("validate"),
            Pictures(stages, results, pictures()).of,
            drawings(),
        ),
        "parity": parity_of(stages),
        "quants": _quants(stages),
        "service": _service(stages),
        "settings": _settings(stages),
        "origin": _origin(stages),
    }


def _engines(run_folder: Path) -> dict[str, Any] | None:
    """What evaluate recorded; None where it was not run."""
    survey = survey_of(run_folder)
    if not survey.files and not survey.unreadable:
        return None
    return {
        "tables": side_by_side(survey),
        "identities": identities(survey),
        "contracts_differ": contracts_differ(survey),
        "unreadable": survey.unreadable,
    }


def _training(stages: Stages, results: Mapping[str, Any]) -> dict[str, Any] | None:
    train = stages.get("train")
    if train is None:
        return None
    rows, audit = train.read_rows("metrics.jsonl"), _json_object(stages, "train", "audit.json")
    curves = loss_curves(rows)
    return {
        "curves": [Markup(curve) for curve in curves or ()],
        "logged": len(rows),
        "figures": _figures(train, "train/"),
        "mask": audit.get("mask"),
        "phases": trained_phases(audit.get("phases", []), rows),
        "evaluated": any("eval_loss" in row for row in rows),
        "events": noticed(rows),
        "compared": phase_table(results),
        "census": audit.get("census"),
    }


def _validation(stages: Stages, results: Mapping[str, Any]) -> dict[str, Any] | None:
    validate = stages.get("validate")
    if validate is None:
        return None
    metrics = validate.manifest.metrics
    primary = str(results.get("primary_metric", ""))
    return {
        "tables": metric_tables(metrics, results),
        "forgetting": forgetting_table(results),
        "reliance": reliance_rows(metrics, primary),
        "reliance_facts": results.get("reliance", {}),
        "conditions": list(CONDITIONS.values()),
        "primary_title": title_of(primary),
        "speed": speed_table(metrics),
        "memory_mib": metrics.get("memory/peak_mib"),
        "notes": [note for note in results.get("notes", []) if "image reliance" not in note],
    }


def _quants(stages: Stages) -> dict[str, Any] | None:
    convert = stages.get("convert")
    if convert is None:
        return None
    artifacts = _json_object(stages, "convert", "artifacts.json")
    table = _json_object(stages, "convert", "quant_table.json")
    rows, recommended = table.get("rows", []), artifacts.get("recommended")
    return {
        "rows": rows,
        "metric": title_of(str(table.get("metric", ""))),
        "merged_metric": table.get("merged_metric"),
        "plots": [Markup(plot) for plot in quant_plot(rows, recommended) or ()],
        "recommended": recommended,
        "excluded": artifacts.get("excluded") or {},
        "files": _artifact_files(artifacts),
    }


def _artifact_files(artifacts: Mapping[str, Any]) -> list[str]:
    quants = artifacts.get("quants")
    named = list(quants.values()) if isinstance(quants, dict) else []
    return [str(name) for name in [*named, artifacts.get("mmproj")] if name]


def _service(stages: Stages) -> dict[str, Any] | None:
    deploy = stages.get("deploy")
    if deploy is None:
        return None
    return {
        "figures": _figures(deploy, "deploy/"),
        "smoke_tests": _json_object(stages, "deploy", "deploy.json").get("smoke_tests", []),
        "commands": serving_commands(deploy),
    }


def _figures(stage: PublishedStage, prefix: str) -> list[tuple[str, float]]:
    metrics = stage.manifest.metrics
    return [(spaced(key.removeprefix(prefix)), value) for key, value in metrics.items()]


def _settings(stages: Stages) -> list[tuple[str, Any]]:
    found: dict[str, Any] = {}
    for stage in stages.values():
        found |= stage.manifest.settings
    return sorted(found.items())


def _origin(stages: Stages) -> list[tuple[str, str]]:
    """Commit, command and library facts of the stage published last in the order."""
    if not stages:
        return []
    manifest = list(stages.values())[-1].manifest
    words = [Path(word).name if place == 0 else word for place, word in enumerate(manifest.argv)]
    found = [("command", shlex.join(words)), ("commit", manifest.git_commit or "")]
    for name in ("libraries", "device"):
        facts = manifest.facts.get(name)
        if isinstance(facts, dict):
            words = [f"{spaced(key)} {value}" for key, value in facts.items() if _is_said(value)]
            found.append((name, ", ".join(words)))
    return [(key, value) for key, value in found if value]


def _is_said(value: Any) -> bool:
    return value is not None and not isinstance(value, (list, dict, bool))


def _json_object(stages: Stages, stage: str, name: str) -> dict[str, Any]:
    value = stages[stage].read_json(name) if stage in stages else None
    return value if isinstance(value, dict) else {}
