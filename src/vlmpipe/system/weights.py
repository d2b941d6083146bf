"""How big a model is, from the headers of its weight files alone."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Literal

ModelKind = Literal["embedded", "folder", "hub"]
MAX_HEADER_BYTES = 100_000_000
"""The limit that safetensors itself sets."""


def model_kind(model_id: str) -> ModelKind:
    """Whether an id names an embedded model, a folder of this machine, or a hub repository."""
    if model_id.startswith("embedded:"):
        return "embedded"
    looks_like_path = model_id.startswith(("/", "./", "../", "~")) or model_id.count("/") > 1
    return "folder" if looks_like_path or Path(model_id).is_dir() else "hub"


def local_weights(model_id: str) -> Path | None:
    """Folder with the model's weights on this machine, None where they are not here."""
    if model_kind(model_id) == "folder":
        folder = Path(model_id).expanduser()
        return folder if any(folder.glob("*.safetensors")) else None
    snapshots = hub_cache() / f"models--{model_id.replace('/', '--')}" / "snapshots"
    folders = [path for path in snapshots.glob("*") if any(path.glob("*.safetensors"))]
    return max(folders, key=lambda path: path.stat().st_mtime, default=None)


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it downloads."""
    own = os.environ.get("HF_HUB_CACHE")
    if own:
        return Path(own).expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".cache/huggingface") / "hub"


def parameter_count(folder: Path) -> int | None:
    """Weights of a model folder, summed from the safetensors headers; None when unreadable."""
    try:
        return sum(_elements_of(path) for path in folder.glob("*.safetensors")) or None
    except (OSError, ValueError, KeyError, struct.error):
        return None


def _elements_of(path: Path) -> int:
    with path.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        if size > MAX_HEADER_BYTES:
            raise ValueError(f"{path} has a header of {size} bytes")
        header = json.loads(stream.read(size))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name[:2] != "__")
