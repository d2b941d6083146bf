"""A trained model as a complete 16-bit transformers folder, proven to answer as it did before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines.hf import HfEngine
from vlmpipe.errors import StageError
from vlmpipe.export.adapter import RETRAIN, read_adapter
from vlmpipe.export.merge import MergeReport, merge_adapter, merge_full
from vlmpipe.export.model_files import copy_model_files
from vlmpipe.export.probes import Probe, as_records, ask, mean_loss, paired
from vlmpipe.export.weights import Checkpoint, bytes_of, weights_digest
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.loading import load_model, load_tokenizer
from vlmpipe.pipeline import Verdict

LIBRARIES = ("torch", "transformers", "peft", "safetensors")


@dataclass(frozen=True)
class Merged:
    """A merged folder and how it came about."""

    folder: Path
    method: str
    """`adapter` or `full`."""

    trained: Path
    """Folder of the adapter, or of the fully trained model."""

    report: MergeReport
    rank: int | None
    scale: float | None


def write_merged(
    config: Config,
    base: BaseModelFolder,
    train: Path,
    contract: PreprocessContract,
    target: Path,
) -> Merged:
    """Write the merged model into `target`: weights, configuration, tokenizer, processor.

    Raises:
        StageError: when the trained weights do not fit the base, or train handed on none.
    """
    checkpoint, shard_bytes = Checkpoint(base.folder), bytes_of(config.merge.max_shard_size)
    options: dict[str, Any] = {"dtype": config.model.dtype, "shard_bytes": shard_bytes}
    rank = scale = None
    if (train / "adapter").is_dir():
        method, trained = "adapter", train / "adapter"
        adapter = read_adapter(trained)
        rank, scale = adapter.rank, adapter.scale
        report = merge_adapter(checkpoint, base.family, adapter, target, **options)
    elif (train / "model").is_dir():
        method, trained = "full", train / "model"
        report = merge_full(checkpoint, base.family, Checkpoint(trained), target, **options)
    else:
        raise StageError(f"{train} holds neither an adapter nor a trained model", RETRAIN)
    copy_model_files(base.folder, target, contract, dtype=report.dtype)
    return Merged(target, method, trained, report, rank, scale)


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
    return _ask(_load(config, folder, dtype), folder, contract, samples, "hf:merged")


def merge_info(
    base: BaseModelFolder,
    contract: PreprocessContract,
    merged: Merged,
    before: Sequence[Probe],
    after: Sequence[Probe],
) -> dict[str, Any]:
    """merge_info.json: counts, digests, scale, versions, and every probe before and after."""
    loss_before, loss_after = mean_loss(before), mean_loss(after)
    return {
        "method": merged.method,
        "base": {"id": base.id, "revision": base.revision},
        **asdict(merged.report),
        "base_was_rounded": merged.report.base_was_rounded,
        "rank": merged.rank,
        "scale": merged.scale,
        "digests": {
            "base": base.digest,
            "trained": weights_digest(merged.trained),
            "merged": weights_digest(merged.folder),
            "contract": contract.digest,
        },
        "versions": {name: version(name) for name in LIBRARIES},
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
    """16-bit weights, multiplied in float32 where that fits.

    Then two models differ by their weights alone; bfloat16 arithmetic would add noise of its own
    to every comparison.
    """
    model = load_model(folder, dtype=dtype, attn_implementation=config.model.attn_implementation)
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
