"""A merged model folder to GGUF files: text, tower, and the quantised set."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.errors import StageError
from vlmpipe.export.gguf.check import check_mmproj, check_text
from vlmpipe.export.gguf.children import run_child
from vlmpipe.export.gguf.header import GgufHeader
from vlmpipe.export.gguf.metadata import Lineage, carried_keys, seal
from vlmpipe.export.gguf.names import TOWER_MARK, text_shapes
from vlmpipe.export.merging.weights import Checkpoint
from vlmpipe.models.families import Family
from vlmpipe.system.llama_cpp import LlamaCppSources

LARGEST_F16 = 65504.0
FOLDER = "gguf"


@dataclass(frozen=True)
class GgufNames:
    """Names of one model's files."""

    folder: Path
    run_name: str

    def text(self, quant: str) -> Path:
        """Weights of the language model in one type."""
        return self.folder / f"{self.run_name}-finetune-{quant}.gguf"

    def mmproj(self, base_type: str) -> Path:
        """The vision tower and its projector."""
        return self.folder / f"{self.run_name}-finetune-mmproj-{base_type}.gguf"


@dataclass(frozen=True)
class GgufFile:
    """A file that was made, with what its header says."""

    path: Path
    header: GgufHeader


class Converter:
    """llama.cpp's converter and quantiser over one merged model.

    Their whole output goes to `log`. Every file carries `lineage` and `contract`, where they are
    given, and is held against the merged model before it is handed on.
    """

    def __init__(
        self,
        sources: LlamaCppSources,
        model: Path,
        family: Family,
        names: GgufNames,
        log: Path,
        *,
        lineage: Lineage | None = None,
        contract: PreprocessContract | None = None,
    ) -> None:
        self._sources = sources
        self._model = model
        self._family = family
        self._names = names
        self._log = log
        self._carried = carried_keys(lineage, contract)
        self._contract = contract

    def base_type(self) -> str:
        """f16, or bf16 where a weight is too large for f16."""
        return "bf16" if largest_weight(self._model) > LARGEST_F16 else "f16"

    def convert(self, base_type: str, *, mmproj: bool = False) -> GgufFile:
        """Write the language model, or the tower, in a type that the converter writes.

        Raises:
            ToolError: when the converter fails, with its last lines and its log.
            ArtifactError: when the file that it wrote does not hold the merged model.
        """
        path = self._names.mmproj(base_type) if mmproj else self._names.text(base_type)
        order = {
            "sources": os.fspath(self._sources.folder.resolve()),
            "model": os.fspath(self._model.resolve()),
            "outfile": os.fspath(path.resolve()),
            "outtype": base_type,
            "mmproj": mmproj,
            "pre_tokenizer": pre_tokenizer(self._model, self._family),
            "name": f"{self._names.run_name} finetune",
            "metadata": self._carried,
        }
        self._run(
            "child_convert.py",
            order,
            what=f"converting {self._model} to {path.name}",
            remedy="convert with another llama.cpp checkout: convert.llama_cpp_dir=DIR",
        )
        return self._checked(path, mmproj=mmproj)

    def mmproj(self, asked: str, ftype: int, threads: int) -> GgufFile:
        """Write the tower in any type; bf16 where f16 was asked for and a weight is too large.

        Raises:
            ToolError: when the converter or the quantiser fails.
            ArtifactError: when the file does not hold the merged model's tower.
        """
        if asked in ("bf16", "f32"):
            return self.convert(asked, mmproj=True)
        wide = largest_weight(self._model, TOWER_MARK) > LARGEST_F16
        source = self.convert("bf16" if wide else "f16", mmproj=True)
        if asked == "f16":
            return source
        made = self._quantise(source, self._names.mmproj(asked), asked, ftype, threads)
        source.path.unlink()
        return self._checked(made, mmproj=True)

    def quantise(
        self,
        source: GgufFile,
        quant: str,
        ftype: int,
        threads: int,
        *,
        imatrix: Path | None = None,
    ) -> GgufFile:
        """Write one quantised file, its errors weighed by an importance matrix where one is given.

        Raises:
            ToolError: when the quantiser fails, with its last lines and its log.
            ArtifactError: when the file that it wrote does not hold the merged model.
        """
        path = self._names.text(quant)
        made = self._quantise(source, path, quant, ftype, threads, imatrix)
        return self._checked(made, mmproj=False)

    def _quantise(
        self,
        source: GgufFile,
        path: Path,
        quant: str,
        ftype: int,
        threads: int,
        imatrix: Path | None = None,
    ) -> Path:
        order = {
            "sources": os.fspath(self._sources.folder.resolve()),
            "source": os.fspath(source.path),
            "target": os.fspath(path),
            "ftype": ftype,
            "threads": threads,
            "imatrix": os.fspath(imatrix) if imatrix else None,
        }
        self._run(
            "child_quantise.py",
            order,
            what=f"quantising {source.path.name} to {quant}",
            remedy=f"leave {quant} out: convert.quants=[...], convert.mmproj_type=f16",
        )
        return path

    def _checked(self, path: Path, *, mmproj: bool) -> GgufFile:
        """A file that was just written, sealed, with a header that agrees with the model."""
        seal(path)
        model, family, sources = self._model, self._family, self._sources
        if mmproj:
            return GgufFile(path, check_mmproj(path, model, family, sources, self._contract))
        return GgufFile(path, check_text(path, model, family, sources, self._text_shapes))

    @cached_property
    def _text_shapes(self) -> dict[str, tuple[int, ...]]:
        return text_shapes(self._model, self._family, self._sources)

    def _run(self, child: str, order: Mapping[str, Any], *, what: str, remedy: str) -> None:
        run_child(child, order, folder=self._names.folder, log=self._log, what=what, remedy=remedy)


def largest_weight(model: Path, mark: str = "") -> float:
    """Largest magnitude among the weights of a folder, or of those with `mark` in their names."""
    tensors = Checkpoint(model).tensors()
    sizes = (tensor for key, tensor in tensors if mark in key and tensor.numel())
    return max((float(tensor.abs().max()) for tensor in sizes), default=0.0)


def pre_tokenizer(model: Path, family: Family) -> str:
    """llama.cpp's name of the tokenizer's pre-tokenizer: the family's, when its regular expression
    is really the one in tokenizer.json.

    Raises:
        StageError: when the tokenizer splits text in another way.
    """
    path = model / "tokenizer.json"
    try:
        found = _split_patterns(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StageError(f"{path} cannot be read: {exc}") from exc
    if found != [PRE_TOKENIZER_PATTERNS[family.gguf_pre_tokenizer]]:
        raise StageError(
            f"{path} splits text by {found}, which is not llama.cpp's pre-tokenizer"
            f" {family.gguf_pre_tokenizer!r} of {family.title}: token ids would differ",
            "use the tokenizer that the base model came with",
        )
    return family.gguf_pre_tokenizer


PRE_TOKENIZER_PATTERNS = {
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
"""Regular expressions of llama.cpp's pre-tokenizers, as Qwen's tokenizer.json write them."""


def _split_patterns(tokenizer: dict[str, object]) -> list[str]:
    """Every regular expression among a tokenizer's pre-tokenizers."""
    root = tokenizer["pre_tokenizer"]
    if not isinstance(root, dict):
        return []
    steps: Sequence[dict[str, dict[str, str]]] = root.get("pretokenizers", [root])
    return [step["pattern"]["Regex"] for step in steps if "pattern" in step]
