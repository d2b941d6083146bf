"""What a GGUF file says of itself, held against the family it should be."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlmpipe.errors import StageError
from vlmpipe.models.families import Family
from vlmpipe.system.llama_cpp import LlamaCppSources
from vlmpipe.system.process import answer_of

ARCHITECTURES = {
    "qwen2_vl": "qwen2vl",
    "qwen2_5_vl": "qwen2vl",
    "qwen3_vl": "qwen3vl",
    "qwen3": "qwen3",
}
"""Family to llama.cpp's architecture; a tower is always `clip`."""

READ_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class GgufHeader:
    """The part of a header that is checked and shown."""

    architecture: str
    types: Mapping[str, int]
    """How many tensors are held in each type: a row that a K-quant does not fit takes another."""

    @property
    def tensors(self) -> int:
        """All tensors."""
        return sum(self.types.values())


def read_header(path: Path, sources: LlamaCppSources) -> GgufHeader:
    """Read a file's header.

    Raises:
        StageError: when it is no GGUF file, or a damaged one.
    """
    child = Path(__file__).with_name("child_header.py")
    text = answer_of([sys.executable, child, sources.folder, path], timeout_s=READ_TIMEOUT_S)
    if text is None:
        raise StageError(
            f"{path} is not a readable GGUF file",
            "convert again: `vlmpipe run-all --force convert` with the same options",
        )
    return GgufHeader(**json.loads(text))


def check_header(
    path: Path, family: Family, sources: LlamaCppSources, *, mmproj: bool
) -> GgufHeader:
    """The header of a file that was just made.

    Raises:
        StageError: when the file is unreadable, of another architecture, or holds no tensors.
    """
    header = read_header(path, sources)
    expected = "clip" if mmproj else ARCHITECTURES[family.name]
    if header.architecture != expected:
        raise StageError(
            f"{path} is of architecture {header.architecture!r}; {family.title} needs {expected!r}"
        )
    if header.tensors == 0:
        raise StageError(f"{path} holds no tensors")
    return header
