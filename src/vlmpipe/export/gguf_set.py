"""The whole set of GGUF files of a run: made, tried, judged, described for who serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.config.convert import ConvertConfig
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.llama_runtime import available_cpus
from vlmpipe.export.gguf_files import Converter, GgufFile
from vlmpipe.export.modelfile import ollama_settings, render_modelfile
from vlmpipe.export.probes import Probe
from vlmpipe.export.quants import BASE_TYPES
from vlmpipe.export.trial import QuantRow, recommended, table_of, try_file
from vlmpipe.pipeline import Verdict
from vlmpipe.pipeline.events import Reporter
from vlmpipe.pipeline.files import write_json, write_text


@dataclass(frozen=True)
class GgufSet:
    """Files by type, the 16-bit one first."""

    files: Mapping[str, GgufFile]
    mmproj: Path | None
    base_type: str


def make_files(
    converter: Converter, types: Mapping[str, int], *, vision: bool, reporter: Reporter
) -> GgufSet:
    """Convert once to 16 bit, then quantise to every type asked for.

    Raises:
        ToolError: when the converter or the quantiser fails.
    """
    base_type = converter.base_type()
    if base_type != "f16":
        reporter.note("weights too large for f16: the 16-bit files are bf16")
    wanted = [name for name in types if name != base_type]
    steps = 1 + vision + len(wanted)
    reporter.progress("converting", 0, steps, file=base_type)
    files = {base_type: converter.convert(base_type)}
    mmproj = converter.convert(base_type, mmproj=True).path if vision else None
    for done, name in enumerate(wanted, start=1 + vision):
        reporter.progress("converting", done, steps, file=name)
        source = files[base_type]
        files[name] = converter.quantise(source, name, types[name], available_cpus())
    reporter.progress_done()
    return GgufSet(files, mmproj, base_type)


def try_files(
    made: GgufSet,
    contract: PreprocessContract,
    samples: Sequence[Sample],
    merged: Sequence[Probe],
    *,
    rules: ConvertConfig,
    reporter: Reporter,
) -> list[QuantRow]:
    """Load every file, ask it the samples, hold it against the merged model."""
    rows = []
    for done, (quant, file) in enumerate(made.files.items()):
        reporter.progress("asking", done, len(made.files), file=quant)
        rows.append(
            try_file(
                quant,
                file,
                made.mmproj,
                contract,
                samples,
                merged,
                max_loss_drift=drift_limit(quant, rules),
            )
        )
    reporter.progress_done()
    return rows


def drift_limit(quant: str, rules: ConvertConfig) -> float:
    """How far a file's loss may lie from the merged model's."""
    return rules.max_f16_loss_drift if quant in BASE_TYPES else rules.max_loss_drift


def judge_set(rows: Sequence[QuantRow]) -> Verdict:
    """The 16-bit file must answer as the merged model; a quantised one is merely excluded."""
    reasons = [
        f"{row.quant}: {row.excluded} (convert.max_f16_loss_drift)"
        for row in rows
        if row.excluded and row.quant in BASE_TYPES
    ]
    return Verdict(not reasons, tuple(reasons))


def write_descriptions(
    folder: Path,
    made: GgufSet,
    rows: Sequence[QuantRow],
    merged: Sequence[Probe],
    contract: PreprocessContract,
) -> str:
    """artifacts.json, quant_table.json, the contract and the Modelfile; returns the recommended
    type.
    """
    best = recommended(rows)
    artifacts: dict[str, Any] = {
        "quants": {quant: file.path.name for quant, file in made.files.items()},
        "mmproj": made.mmproj.name if made.mmproj else None,
        "recommended": best,
        "excluded": {row.quant: row.excluded for row in rows if row.excluded},
    }
    write_json(folder / "artifacts.json", artifacts)
    write_json(folder / "quant_table.json", table_of(rows, merged, made.mmproj))
    contract.write(folder)
    names = [str(path.relative_to(folder)) for path in served_files(made, best)]
    write_text(folder / "Modelfile", render_modelfile(names, ollama_settings(contract)))
    return best


def served_files(made: GgufSet, quant: str) -> list[Path]:
    """The files that a runtime needs: weights, and the mmproj where there is one."""
    return [made.files[quant].path, *([made.mmproj] if made.mmproj else [])]


def ollama_name(config: ConvertConfig, run_name: str) -> str:
    """The model's name in Ollama, which allows lower case only."""
    return config.ollama_name or f"{run_name}-finetune".lower()
