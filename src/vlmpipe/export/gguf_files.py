"""A merged model folder to GGUF files: text, tower, and the quantised set."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmpipe.errors import StageError, ToolError
from vlmpipe.export.gguf_header import GgufHeader, check_header
from vlmpipe.export.weights import Checkpoint
from vlmpipe.models.families import Family
from vlmpipe.system.llama_cpp import LlamaCppSources
from vlmpipe.system.process import run_program

LARGEST_F16 = 65504.0
FOLDER = "gguf"
FULL_BELOW_BYTES = 1 << 20
"""With less than this free after a failure, the disk was the cause: llama.cpp does not say so."""


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

    Their whole output goes to `log`.
    """

    def __init__(
        self, sources: LlamaCppSources, model: Path, family: Family, names: GgufNames, log: Path
    ) -> None:
        self._sources = sources
        self._model = model
        self._family = family
        self._names = names
        self._log = log

    def base_type(self) -> str:
        """f16, or bf16 where a weight is too large for f16."""
        return "bf16" if largest_weight(self._model) > LARGEST_F16 else "f16"

    def convert(self, base_type: str, *, mmproj: bool = False) -> GgufFile:
        """Write the language model, or the tower, in a 16-bit type.

        Raises:
            ToolError: when the converter fails, with its last lines and its log.
            StageError: when the file that it wrote is not what was asked for.
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
        }
        self._run(
            [_child("child_convert.py"), json.dumps(order)],
            what=f"converting {self._model} to {path.name}",
            remedy="convert with another llama.cpp checkout: convert.llama_cpp_dir=DIR",
        )
        return GgufFile(path, check_header(path, self._family, self._sources, mmproj=mmproj))

    def quantise(self, source: GgufFile, quant: str, ftype: int, threads: int) -> GgufFile:
        """Write one quantised file.

        Raises:
            ToolError: when the quantiser fails, with its last lines and its log.
        """
        path = self._names.text(quant)
        self._run(
            [_child("child_quantise.py"), source.path, path, str(ftype), str(threads)],
            what=f"quantising {source.path.name} to {quant}",
            remedy=f"leave {quant} out: convert.quants=[...] (types of 2 bits and less need an"
            " importance matrix)",
        )
        return GgufFile(path, check_header(path, self._family, self._sources, mmproj=False))

    def _run(self, argv: Sequence[str | Path], *, what: str, remedy: str) -> None:
        """Run a child; a full disk is told apart from a fault of the tool.

        Raises:
            ToolError: with the last lines and the log.
            OSError: ENOSPC when the disk is full.
        """
        try:
            run_program(
                [sys.executable, *argv],
                what=what,
                log=self._log,
                env={"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"},
                remedies=(remedy,),
            )
        except ToolError as exc:
            if shutil.disk_usage(self._names.folder).free < FULL_BELOW_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what) from exc
            raise


def largest_weight(model: Path) -> float:
    """Largest magnitude among the weights of a folder."""
    sizes = (tensor for _, tensor in Checkpoint(model).tensors() if tensor.numel())
    return max(float(tensor.abs().max()) for tensor in sizes)


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


def _child(name: str) -> Path:
    path = Path(__file__).with_name(name)
    if not path.is_file():
        raise ToolError(f"{path} is missing: the installation is not complete", "run `make setup`")
    return path
