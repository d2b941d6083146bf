"""Stage 4: the trained weights folded into the base's, as a 16-bit transformers folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.contract import read_contract
from vlmpipe.export.merging.card import read_summary, render_card
from vlmpipe.export.merging.fold_choice import Choice, fold_bases, fold_best
from vlmpipe.export.merging.merged_model import merge_info
from vlmpipe.export.parity.ladder import Ladder, write_answers
from vlmpipe.export.parity.merged_rungs import UpperLadder, judge
from vlmpipe.export.parity.probes import ProbeSet, select_probes
from vlmpipe.export.parity.records import metrics_of
from vlmpipe.export.parity.references import ADAPTER, MERGED, Trained
from vlmpipe.models.base import read_base
from vlmpipe.pipeline import Outcome, Stage, StageContext
from vlmpipe.pipeline.files import write_json, write_text
from vlmpipe.pipeline.manifest import read_manifest


def run(context: StageContext) -> Outcome:
    """Fold, copy what goes with the weights, climb the upper ladder, write the card."""
    config: Config = context.config
    setup, train = context.upstream["setup"], context.upstream["train"]
    contract = read_contract(train)
    trained = Trained(config, read_base(setup), train, contract)
    probes = select_probes(setup / "data", config.parity.probes, contract.grid)
    with TemporaryDirectory(prefix="scratch-", dir=context.folder) as scratch:
        bases = fold_bases(config, trained)
        progress = _Progress(context, len(probes.samples), len(bases))
        upper = UpperLadder(trained, probes, Path(scratch), progress)
        choice = fold_best(trained, bases, upper, context.folder, context.reporter)
    context.reporter.progress_done()
    info = {**merge_info(trained.base, contract, choice.merged), "choice": choice.as_record()}
    describe(context, trained, probes, upper, choice, info)
    records = choice.rungs.records
    return Outcome(
        metrics={**numbers(info), **metrics_of(records)},
        verdict=judge(choice.rungs),
        summary=(*summary_of(info), *choice.lines, *(record.line for record in records)),
        facts={"versions": info["versions"]},
    )


class _Progress:
    """Counts probes asked: the references and each candidate, forced and answering."""

    def __init__(self, context: StageContext, probes: int, candidates: int) -> None:
        self._reporter, self._done = context.reporter, 0
        self._total = probes * (2 + 1 + 2 * candidates)

    def __call__(self) -> None:
        self._done += 1
        self._reporter.progress("parity", self._done, max(self._total, self._done))


def describe(
    context: StageContext,
    trained: Trained,
    probes: ProbeSet,
    upper: UpperLadder,
    choice: Choice,
    info: Mapping[str, Any],
) -> None:
    """merge_info.json, probes.json, parity.json, the contract, the model card."""
    folder, contract = context.folder, trained.contract
    write_json(folder / "merge_info.json", info)
    contract.write(folder)
    probes.write(folder, contract.grid)
    Ladder(probes.record(contract.grid), choice.rungs.records, trained.compute).write(folder)
    answers = {ADAPTER: upper.adapter.answers, MERGED: choice.rungs.merged.answers}
    write_answers(folder, {name: each for name, each in answers.items() if each is not None})
    card = render_card(
        run_name=trained.config.run.name,
        base=trained.base,
        contract=contract,
        data=read_summary(context.upstream["setup"] / "data" / "data.json"),
        metrics=validated(context.upstream["validate"]),
        info=info,
        rungs=choice.rungs.records,
    )
    write_text(folder / "model" / "README.md", card)


def validated(folder: Path) -> dict[str, float]:
    """What validate measured of the model, for the card: no speeds, which are the machine's."""
    manifest = read_manifest(folder)
    metrics = manifest.metrics if manifest else {}
    return {key: value for key, value in metrics.items() if key.startswith(("train/", "heldout/"))}


def numbers(info: Mapping[str, Any]) -> dict[str, float]:
    """The figures of merge_info.json as metrics."""
    names = ("tensors", "adapted", "changed", "replaced", "dequantised")
    return {f"merge/{name}": float(info[name]) for name in names}


def summary_of(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Lines for the person who watches."""
    lines = [
        f"{info['changed'] + info['replaced_changed']} of {info['tensors']} tensors changed"
        f" ({info['adapted']} adapted, {info['replaced']} replaced), {info['dtype']}"
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
    reads=(
        "merge",
        "parity.probes",
        "parity.max_new_tokens",
        "parity.max_kld.merged",
        "parity.max_kld.drift",
        "model.dtype",
        "model.attn_implementation",
        "run.name",
    ),
    consumes={
        "setup": ("model.json", "model/*", "data/*.parquet"),
        "train": ("adapter/*", "model/*", "preprocess_contract.json"),
    },
    gated_by=("validate",),
)
