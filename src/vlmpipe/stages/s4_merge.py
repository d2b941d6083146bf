"""Stage 4: the trained weights folded into the base's, as a 16-bit transformers folder."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.data.store import load_split
from vlmpipe.encoding.contract import read_contract
from vlmpipe.export.card import read_summary, render_card
from vlmpipe.export.merged_model import (
    FoldBase,
    ask_before,
    ask_merged,
    judge_merge,
    merge_info,
    write_merged,
)
from vlmpipe.models.base import read_base
from vlmpipe.pipeline import Outcome, Stage, StageContext
from vlmpipe.pipeline.files import write_json, write_text
from vlmpipe.pipeline.manifest import read_manifest


def run(context: StageContext) -> Outcome:
    """Fold, copy what goes with the weights, compare answers before and after, write the card."""
    config: Config = context.config
    setup, train = context.upstream["setup"], context.upstream["train"]
    base, contract = read_base(setup), read_contract(train)
    target = context.folder / "model"
    target.mkdir()
    merged = write_merged(config, base, train, contract, target, method=fold_base(config))
    samples = list(islice(load_split(setup / "data", "train"), config.merge.probes))
    context.reporter.note(f"asking {len(samples)} training samples before and after the merge")
    info = merge_info(
        base,
        contract,
        merged,
        before=ask_before(config, base, merged, contract, samples),
        after=ask_merged(config, target, contract, samples),
    )
    write_json(context.folder / "merge_info.json", info)
    contract.write(context.folder)
    card = render_card(
        run_name=config.run.name,
        base=base,
        contract=contract,
        data=read_summary(setup / "data" / "data.json"),
        metrics=validated(context.upstream["validate"]),
        info=info,
    )
    write_text(target / "README.md", card)
    return Outcome(
        metrics=numbers(info),
        verdict=judge_merge(info, config.merge.max_loss_drift),
        summary=summary_of(info),
        facts={"versions": info["versions"]},
    )


def fold_base(config: Config) -> FoldBase:
    """What an adapter is folded into."""
    return "w16" if config.merge.base == "auto" else config.merge.base


def validated(folder: Path) -> dict[str, float]:
    """What validate measured of the model, for the card: no speeds, which are the machine's."""
    manifest = read_manifest(folder)
    metrics = manifest.metrics if manifest else {}
    return {key: value for key, value in metrics.items() if key.startswith(("train/", "heldout/"))}


def numbers(info: Mapping[str, Any]) -> dict[str, float]:
    """The figures of merge_info.json as metrics."""
    names = ("tensors", "adapted", "changed", "replaced", "loss_before", "loss_after", "loss_drift")
    same = [probe["same_answer"] for probe in info["probes"]]
    return {
        **{f"merge/{name}": float(info[name]) for name in names},
        "merge/same_answers": sum(same) / len(same),
    }


def summary_of(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Lines for the person who watches."""
    same = sum(probe["same_answer"] for probe in info["probes"])
    lines = [
        f"{info['changed'] + info['replaced_changed']} of {info['tensors']} tensors changed"
        f" ({info['adapted']} adapted, {info['replaced']} replaced), {info['dtype']}",
        f"probes: loss {info['loss_before']:.4f} before, {info['loss_after']:.4f} after;"
        f" {same} of {len(info['probes'])} answers the same",
    ]
    if info["base_was_rounded"]:
        lines.append(f"the base was not in {info['dtype']}: its weights were rounded once")
    if info["dequantised"]:
        lines.append(f"folded into the values of {info['dequantised']} tensors that 4-bit held")
    return tuple(lines)


MERGE = Stage(
    name="merge",
    number=4,
    version=2,
    run=run,
    reads=("merge", "model.dtype", "model.attn_implementation", "run.name"),
    consumes={
        "setup": ("model.json", "model/*", "data/*.parquet"),
        "train": ("adapter/*", "model/*", "preprocess_contract.json"),
    },
    gated_by=("validate",),
)
