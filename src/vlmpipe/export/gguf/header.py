"""What a GGUF file says of itself, read by the gguf package of llama.cpp's own sources."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmpipe.errors import ArtifactError
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
CONVERT_AGAIN = "convert again: `vlmpipe run-all --force convert` with the same options"


@dataclass(frozen=True)
class GgufHeader:
    """A file's keys, and its tensors without their data."""

    architecture: str
    types: Mapping[str, int]
    """How many tensors are held in each type: a row that a K-quant does not fit takes another."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Every key; of a list of more than 256 values its length alone, as `{"length": n}`."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Tensor name to shape in ggml's order: a row's length first, PyTorch's shape reversed."""

    @property
    def tensors(self) -> int:
        """How many tensors there are."""
        return sum(self.types.values())


def read_header(path: Path, sources: LlamaCppSources) -> GgufHeader:
    """Read a file's header.

    Raises:
        ArtifactError: when it is no GGUF file, or a damaged or truncated one.
    """
    child = Path(__file__).parent / "programs" / "child_header.py"
    text = answer_of([sys.executable, child, sources.folder, path], timeout_s=READ_TIMEOUT_S)
    if text is None:
        raise ArtifactError(f"{path} is not a readable GGUF file", CONVERT_AGAIN)
    found = json.loads(text)
    shapes = {name: tuple(shape) for name, shape in found.pop("shapes").items()}
    return GgufHeader(**found, shapes=shapes)


def check_header(
    path: Path, family: Family, sources: LlamaCppSources, *, mmproj: bool
) -> GgufHeader:
    """The header of a file of the family's architecture.

    Raises:
        ArtifactError: when the file is unreadable, of another architecture, or holds no tensors.
    """
    header = read_header(path, sources)
    expected = "clip" if mmproj else ARCHITECTURES[family.name]
    if header.architecture != expected:
        raise ArtifactError(
            f"{path} is of architecture {header.architecture!r}; {family.title} needs {expected!r}",
            CONVERT_AGAIN,
        )
    if header.tensors == 0:
        raise ArtifactError(f"{path} holds no tensors", CONVERT_AGAIN)
    return header
