"""What a model folder may bring: tensors and text, never code."""

from __future__ import annotations

import json
from pathlib import Path

from vlmpipe.errors import ArtifactError

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def refuse_foreign_code(folder: Path) -> None:
    """Refuse pickled weights, `auto_map` entries and Python files: each runs code when loaded.

    Raises:
        ArtifactError: naming every such file, or the absence of safetensors.
    """
    problems = [
        f"{path.name}: pickled weights run code when they are loaded"
        for path in sorted(folder.iterdir())
        if path.suffix in PICKLED
    ]
    problems += [f"{path.name}: Python file" for path in sorted(folder.glob("**/*.py"))]
    problems += [
        f"{path.name}: has `auto_map`, which names code to load"
        for path in sorted(folder.glob("*.json"))
        if _has_auto_map(path)
    ]
    if not any(folder.glob("*.safetensors")):
        problems.append("no *.safetensors weights")
    if problems:
        raise ArtifactError(
            f"the model folder {folder} is refused",
            "give a folder with safetensors weights and no code: model.id=DIR",
            "convert pickled weights with transformers' save_pretrained on a machine you can lose",
            problems=problems,
        )


def _has_auto_map(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "auto_map" in content
