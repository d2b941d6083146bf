"""A trained model as a complete 16-bit transformers folder, proven to answer as it did before."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from vlmpipe import __version__
from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.errors import ConfigError, StageError
from vlmpipe.export.merging.adapter import RETRAIN, read_adapter
from vlmpipe.export.merging.card import base_name
from vlmpipe.export.merging.merge import MergeReport, merge_adapter, merge_full
from vlmpipe.export.merging.model_files import copy_model_files
from vlmpipe.export.merging.plan import HeldIn
from vlmpipe.export.merging.weights import Checkpoint, weights_digest
from vlmpipe.models.adapter_base import read_adapter_base
from vlmpipe.models.base import BaseModelFolder

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "bitsandbytes")
FoldBase = Literal["w16", "dequant"]


@dataclass(frozen=True)
class Merged:
    """A merged folder and how it came about."""

    folder: Path
    method: str
    """`adapter` or `full`."""

    fold_base: FoldBase
    """What was folded into."""

    trained: Path
    """Folder of the adapter, or of the fully trained model."""

    report: MergeReport
    rank: int | None
    scale: float | None
    held_in: HeldIn | None
    """How training held the base, where that is what was folded into."""


def write_merged(
    config: Config,
    base: BaseModelFolder,
    train: Path,
    contract: PreprocessContract,
    target: Path,
    *,
    method: FoldBase = "w16",
) -> Merged:
    """Write the merged model into `target`: weights, configuration, tokenizer, processor.

    `method` says what an adapter is folded into.

    Raises:
        ConfigError: when `dequant` is asked for and the base was not trained on in 4-bit.
        StageError: when the trained weights do not fit the base, or train handed on none.
    """
    adapter, model = train / "adapter", train / "model"
    if adapter.is_dir():
        merged = _merge_adapter(config, base, adapter, contract, target, method)
    elif model.is_dir():
        _refuse_dequant(method, "all of the base's weights were trained")
        lineage = _lineage(config, base, model, contract)
        dtype = config.model.dtype
        report = merge_full(
            Checkpoint(base.folder),
            base.family,
            Checkpoint(model),
            target,
            dtype=dtype,
            lineage=lineage,
        )
        merged = Merged(target, "full", method, model, report, None, None, None)
    else:
        raise StageError(f"{train} holds neither an adapter nor a trained model", RETRAIN)
    copy_model_files(base.folder, target, contract, dtype=merged.report.dtype)
    return merged


def _merge_adapter(
    config: Config,
    base: BaseModelFolder,
    folder: Path,
    contract: PreprocessContract,
    target: Path,
    method: FoldBase,
) -> Merged:
    trained_on = read_adapter_base(folder, base)
    held_in = None
    if trained_on.quantization is None:
        _refuse_dequant(method, "the adapter was trained over 16-bit weights")
    elif method == "dequant":
        held_in = HeldIn(trained_on.quantization, trained_on.dtype)
    adapter = read_adapter(folder)
    report = merge_adapter(
        Checkpoint(base.folder),
        base.family,
        adapter,
        target,
        dtype=config.model.dtype,
        held_in=held_in,
        lineage=_lineage(config, base, folder, contract),
    )
    return Merged(target, "adapter", method, folder, report, adapter.rank, adapter.scale, held_in)


def _refuse_dequant(method: FoldBase, why: str) -> None:
    if method == "dequant":
        raise ConfigError(
            f"merge.base=dequant: {why}, so there are no 4-bit weights to fold into",
            "fold into the base's own weights: merge.base=w16",
            "or train over a 4-bit base: train.method=qlora",
        )


def _lineage(
    config: Config, base: BaseModelFolder, trained: Path, contract: PreprocessContract
) -> dict[str, str]:
    """Where the weights come from, for the metadata of their files."""
    return {
        "vlmpipe.version": __version__,
        "vlmpipe.run": config.run.name,
        "vlmpipe.base": base_name(base),
        "vlmpipe.base_revision": base.revision,
        "vlmpipe.base_digest": base.digest,
        "vlmpipe.trained_digest": weights_digest(trained),
        "vlmpipe.contract_digest": contract.digest,
    }


def merge_info(
    base: BaseModelFolder, contract: PreprocessContract, merged: Merged
) -> dict[str, Any]:
    """merge_info.json: counts, proof, digests, versions."""
    proof = merged.report.proof
    return {
        "method": merged.method,
        "fold_base": merged.fold_base,
        "base": {"id": base.id, "revision": base.revision},
        **asdict(merged.report),
        "base_was_rounded": merged.report.base_was_rounded,
        "rank": merged.rank,
        "scale": merged.scale,
        "digests": {
            "base": base.digest,
            "trained": weights_digest(merged.trained),
            "merged": proof.digest if proof else weights_digest(merged.folder),
            "contract": contract.digest,
        },
        "versions": {"vlmpipe": __version__, **{name: version(name) for name in LIBRARIES}},
    }
