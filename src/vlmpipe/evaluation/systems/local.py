"""Systems of files that the run published: transformers folders, GGUF pairs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from vlmpipe.encoding.contract import read_contract
from vlmpipe.errors import ConfigError
from vlmpipe.evaluation.records import MergeState
from vlmpipe.evaluation.systems import opening
from vlmpipe.evaluation.systems.opening import Asking
from vlmpipe.evaluation.systems.order import SystemOrder
from vlmpipe.evaluation.systems.run import Run, weights

ADAPTER_OFF = "adapter_off"
STATES: Mapping[str, MergeState] = {
    "base": "base",
    "adapter": "adapter",
    ADAPTER_OFF: "base",
    "full": "full",
    "merged": "merged",
}
"""What transformers can be asked to run, and what state its weights are in."""


def hf_order(run: Run, asking: Asking, name: str, subject: str) -> SystemOrder:
    """The base, what was trained on it, or the merged folder.

    Raises:
        ConfigError: for anything else.
        ArtifactError: for a stage that was not published.
    """
    if subject == "merged":
        return _merged(run, asking, name)
    if subject not in STATES:
        raise ConfigError(
            f"hf runs {', '.join(STATES)}, not {subject!r}{_near('hf', subject, STATES)}"
        )
    return _trained(run, asking, name, subject)


def llama_cpp_order(run: Run, name: str, quant: str) -> SystemOrder:
    """A GGUF pair that convert made.

    Raises:
        ConfigError: for a type that it did not make.
        ArtifactError: before convert.
    """
    convert, artifacts = run.stage("convert"), run.artifacts()
    files: Mapping[str, str] = artifacts.get("quants", {})
    if quant not in files:
        made = ", ".join(files) or "no file"
        raise ConfigError(f"convert made {made}, not {quant!r}{_near('llama_cpp', quant, files)}")
    mmproj = artifacts.get("mmproj")
    gguf_folder, contract = convert.folder / "gguf", read_contract(convert.folder)
    outputs = convert.manifest.outputs.items()
    return SystemOrder(
        name=name,
        engine_type="llama_cpp",
        model_name=run.model_name("merged"),
        merge_state="merged",
        quantization=quant,
        digests={
            Path(path).name: record.sha256
            for path, record in outputs
            if Path(path).name in (files[quant], mmproj)
        },
        contract_digest=contract.digest,
        open=partial(
            opening.open_gguf,
            run.config,
            gguf_folder / files[quant],
            gguf_folder / mmproj if mmproj else None,
            contract,
            name,
        ),
    )


def _merged(run: Run, asking: Asking, name: str) -> SystemOrder:
    merge = run.stage("merge")
    return SystemOrder(
        name=name,
        engine_type="hf",
        model_name=run.model_name("merged"),
        merge_state="merged",
        quantization=None,
        digests=weights(merge, "model/"),
        contract_digest=read_contract(merge.folder).digest,
        open=partial(opening.open_merged, run.config, merge.folder, name, asking.batch_size),
        compute=_compute(run, asking),
    )


def _trained(run: Run, asking: Asking, name: str, subject: str) -> SystemOrder:
    """Held as in training: 4-bit for qlora."""
    setup, train, config = run.stage("setup"), run.stage("train"), run.config
    if subject not in ("base", run.trained) and (subject, run.trained) != (ADAPTER_OFF, "adapter"):
        raise ConfigError(f"this run trained {run.trained!r}: ask hf:{run.trained}")
    state, qlora = STATES[subject], config.train.method == "qlora"
    return SystemOrder(
        name=name,
        engine_type="hf",
        model_name=run.model_name(state),
        merge_state=state,
        quantization=config.train.quantization.type if qlora else None,
        digests=_trained_digests(run, subject),
        contract_digest=read_contract(train.folder).digest,
        open=partial(
            opening.open_trained,
            config,
            setup.folder,
            train.folder,
            name,
            subject,
            asking.batch_size,
        ),
        compute=_compute(run, asking),
    )


def _compute(run: Run, asking: Asking) -> dict[str, str]:
    model = run.config.model
    return {
        "dtype": model.dtype,
        "attn_implementation": model.attn_implementation,
        "batch_size": str(asking.batch_size),
    }


def _trained_digests(run: Run, subject: str) -> dict[str, str]:
    """Of the base, unless all its weights were trained, and of what training added."""
    setup, train = run.stage("setup"), run.stage("train")
    found = {}
    if subject != "full":
        stated = str((setup.read_json("model.json") or {}).get("digest", ""))
        found = weights(setup, "model/") or {"base": stated}
    if subject != "base":
        found |= weights(train, "model/" if subject == "full" else "adapter/")
    return found


def _near(kind: str, subject: str, names: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(subject, names, n=1)
    return f"; did you mean {kind}:{close[0]}?" if close else ""
