"""The folder for vLLM made and held against the merged model, where one is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from vlmpipe.config.convert import ConvertConfig
from vlmpipe.data.store import load_split
from vlmpipe.errors import ToolError
from vlmpipe.export.gguf.conversion import Conversion
from vlmpipe.export.gguf.imatrix import spread
from vlmpipe.export.parity.records import RungRecord, compare
from vlmpipe.export.parity.rung import Rung, ask_rung
from vlmpipe.export.vllm.folder import (
    VllmExport,
    compressor_version,
    export_for_vllm,
    open_vllm_export,
)

FOLDER = "vllm"


@dataclass(frozen=True)
class VllmRung:
    """What was written, and its place on the ladder."""

    export: VllmExport
    records: Sequence[RungRecord]
    """Empty where the folder could not be asked here."""

    unasked: str | None = None
    """Why not."""

    @property
    def lines(self) -> list[str]:
        """For the person who watches."""
        written = (
            f"{FOLDER}/: {self.export.scheme} for vLLM, {self.export.quantised_layers} layers"
            f" quantised, {self.export.size_bytes / 2**20:.1f} MiB"
        )
        return [written, *([f"{FOLDER}/ was not asked: {self.unasked}"] if self.unasked else [])]


def refuse_missing_compressor(rules: ConvertConfig) -> None:
    """Ask for llm-compressor before anything is converted, and not an hour later.

    Raises:
        ToolError: when `convert.vllm` needs it and it is not installed.
    """
    if rules.vllm is not None:
        compressor_version(rules.vllm_python or Path(sys.executable))


def convert_for_vllm(work: Conversion, merged: Rung, scratch: Path) -> VllmRung | None:
    """Quantise for vLLM where `convert.vllm` asks for it, and ask the result the probes.

    Raises:
        ToolError: when llm-compressor is not installed, or fails.
    """
    rules = work.config.convert
    if rules.vllm is None:
        return None
    samples = spread(load_split(work.context.upstream["setup"] / "data", "train"))
    target = work.context.folder / FOLDER
    work.context.reporter.note(f"quantising for vLLM: {rules.vllm}")
    export = export_for_vllm(
        work.model,
        target,
        rules.vllm,
        work.contract,
        samples,
        log=work.context.log_path,
        python=rules.vllm_python,
    )
    name = f"vllm {rules.vllm}"
    try:
        engine = open_vllm_export(target, work.contract)
    except ToolError as exc:
        return VllmRung(export, [], exc.message)
    parity = work.config.parity
    with closing(engine):
        rung = ask_rung(
            engine,
            work.probes.samples,
            scratch,
            name=name,
            max_new_tokens=parity.max_new_tokens,
        )
    return VllmRung(export, [compare(merged, rung, parity.limit(rules.vllm))])
