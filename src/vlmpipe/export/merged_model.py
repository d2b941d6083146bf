"""A trained model as a complete 16-bit transformers folder, proven to answer as it did before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from vlmpipe import __version__
from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines.hf import HfEngine
from vlmpipe.errors import ConfigError, StageError
from vlmpipe.export.adapter import RETRAIN, read_adapter
from vlmpipe.export.card import base_name
from vlmpipe.export.dequantised import dequantise_model
from vlmpipe.export.merge import MergeReport, merge_adapter, merge_full
from vlmpipe.export.merge_plan import HeldIn
from vlmpipe.export.model_files import copy_model_files
from vlmpipe.export.probes import Probe, as_records, ask, mean_loss, paired
from vlmpipe.export.weights import Checkpoint, weights_digest
from vlmpipe.models.adapter_base import read_adapter_base
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.loading import load_model, load_tokenizer
from vlmpipe.pipeline import Verdict

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


def ask_before(
    config: Config,
    base: BaseModelFolder,
    merged: Merged,
    contract: PreprocessContract,
    samples: Sequence[Sample],
) -> list[Probe]:
    """The probes of base and adapter, or of the fully trained model, in the merged precision."""
    folder = base.folder if merged.method == "adapter" else merged.trained
    model = _load(config, folder, merged.report.dtype)
    if merged.held_in is not None:
        held = merged.held_in
        dequantise_model(model, base.family, held.quantization, held.dtype)
    model = _widened(model)
    if merged.method == "adapter":
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(merged.trained)).eval()
    return _ask(model, base.folder, contract, samples, "hf:before")


def ask_merged(
    config: Config, folder: Path, contract: PreprocessContract, samples: Sequence[Sample]
) -> list[Probe]:
    """The probes of a merged folder, in its own precision."""
    from vlmpipe.models.families import read_model_config

    settings = read_model_config(folder)
    dtype = str(settings.get("dtype") or settings.get("torch_dtype"))
    return _ask(_widened(_load(config, folder, dtype)), folder, contract, samples, "hf:merged")


def merge_info(
    base: BaseModelFolder,
    contract: PreprocessContract,
    merged: Merged,
    before: Sequence[Probe],
    after: Sequence[Probe],
) -> dict[str, Any]:
    """merge_info.json: counts, proof, digests, versions, and every probe before and after."""
    loss_before, loss_after = mean_loss(before), mean_loss(after)
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
        "loss_before": round(loss_before, 6),
        "loss_after": round(loss_after, 6),
        "loss_drift": round(loss_after - loss_before, 6),
        "probes": as_records(paired(before, after)),
    }


def judge_merge(info: Mapping[str, Any], limit: float) -> Verdict:
    """Whether the merged model answers as base and adapter did."""
    drift = float(info["loss_drift"])
    if abs(drift) <= limit:  # false for NaN too
        return Verdict(True)
    return Verdict(
        False,
        (
            f"mean target loss drifted by {drift:+.4f} nats a token in the merge, limit"
            f" merge.max_loss_drift={limit:g}",
        ),
    )


def _load(config: Config, folder: Path, dtype: str) -> Any:
    return load_model(folder, dtype=dtype, attn_implementation=config.model.attn_implementation)


def _widened(model: Any) -> Any:
    """16-bit weights, multiplied in float32 where that fits.

    Then two models differ by their weights alone; bfloat16 arithmetic would add noise of its own
    to every comparison.
    """
    needed = 2 * sum(parameter.numel() * 4 for parameter in model.parameters())
    return model.float() if needed < _free_bytes(model) else model


def _free_bytes(model: Any) -> int:
    """Free memory where the model lies."""
    if model.device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(model.device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _ask(
    model: Any, tokenizer: Path, contract: PreprocessContract, samples: Sequence[Sample], name: str
) -> list[Probe]:
    engine = HfEngine(model, Encoder(load_tokenizer(tokenizer), contract), name)
    try:
        return ask(engine, samples)
    finally:
        engine.close()
