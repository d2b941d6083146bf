"""The whole set of GGUF files of a run: made, and described for who serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.config.convert import ConvertConfig
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.engines.llama_runtime import available_cpus
from vlmpipe.export.gguf.files import Converter, GgufFile
from vlmpipe.export.gguf.quant_bench import QuantRow
from vlmpipe.export.ollama.modelfile import ollama_settings, render_modelfile
from vlmpipe.pipeline.events import Reporter
from vlmpipe.pipeline.files import write_json, write_text


@dataclass(frozen=True)
class GgufSet:
    """Files by type, the 16-bit one first."""

    files: Mapping[str, GgufFile]
    mmproj: Path | None
    base_type: str

    @property
    def paths(self) -> dict[str, Path]:
        """The language model's files by type."""
        return {quant: file.path for quant, file in self.files.items()}


@dataclass(frozen=True)
class Wanted:
    """What is asked of the converter."""

    types: Mapping[str, int]
    """The language model's types, with llama.cpp's numbers of them."""

    tower: tuple[str, int] | None
    """The tower's type and its number; None for a model without one."""

    imatrix: Path | None = None
    """Importance matrix that quantisation spends its precision by."""


def make_files(converter: Converter, wanted: Wanted, reporter: Reporter) -> GgufSet:
    """Convert once to 16 bit, then quantise to every type asked for.

    Raises:
        ToolError: when the converter or the quantiser fails.
        ArtifactError: when a file does not hold the merged model.
    """
    base_type = converter.base_type()
    if base_type != "f16":
        reporter.note("weights too large for f16: the 16-bit files are bf16")
    others = [name for name in wanted.types if name != base_type]
    steps = 1 + (wanted.tower is not None) + len(others)
    reporter.progress("converting", 0, steps, file=base_type)
    files = {base_type: converter.convert(base_type)}
    mmproj = None
    if wanted.tower:
        reporter.progress("converting", 1, steps, file="mmproj")
        mmproj = converter.mmproj(*wanted.tower, available_cpus()).path
    for done, name in enumerate(others, start=steps - len(others)):
        reporter.progress("converting", done, steps, file=name)
        files[name] = converter.quantise(
            files[base_type],
            name,
            wanted.types[name],
            available_cpus(),
            imatrix=wanted.imatrix,
        )
    reporter.progress_done()
    return GgufSet(files, mmproj, base_type)


def write_descriptions(
    folder: Path,
    made: GgufSet,
    rows: Sequence[QuantRow],
    recommended: str,
    contract: PreprocessContract,
    imatrix: Path | None = None,
) -> None:
    """artifacts.json, the contract and the Modelfile of the recommended file."""
    artifacts: dict[str, Any] = {
        "quants": {quant: file.path.name for quant, file in made.files.items()},
        "mmproj": made.mmproj.name if made.mmproj else None,
        "recommended": recommended,
        "excluded": {row.quant: row.excluded for row in rows if row.excluded},
        "imatrix": imatrix.name if imatrix else None,
    }
    write_json(folder / "artifacts.json", artifacts)
    contract.write(folder)
    names = [str(path.relative_to(folder)) for path in served_files(made, recommended)]
    write_text(folder / "Modelfile", render_modelfile(names, ollama_settings(contract)))


def served_files(made: GgufSet, quant: str) -> list[Path]:
    """The files that a runtime needs: weights, and the mmproj where there is one."""
    return [made.files[quant].path, *([made.mmproj] if made.mmproj else [])]


def ollama_name(config: ConvertConfig, run_name: str) -> str:
    """The model's name in Ollama, which allows lower case only."""
    return config.ollama_name or f"{run_name}-finetune".lower()
