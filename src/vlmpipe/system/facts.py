"""Facts recorded in manifests: library versions, the machine, the commit. Never hashed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import vlmpipe
from vlmpipe.system.libraries import installed
from vlmpipe.system.probes import Machine, probe_machine
from vlmpipe.system.process import answer_of

RECORDED_LIBRARIES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "fastapi",
    "gguf",
    "llama-cpp-python",
    "numpy",
    "peft",
    "pillow",
    "pydantic",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)
"""Libraries whose version can change what a stage writes."""


def run_facts() -> dict[str, Any]:
    """What a manifest records of the machine and the installed libraries, ready for JSON."""
    return {"libraries": library_versions(), "device": device_facts(probe_machine())}


def library_versions() -> dict[str, str]:
    """Version of vlmpipe and of every recorded library that is installed."""
    found = {name: installed(name) for name in RECORDED_LIBRARIES}
    known = {name: version for name, version in found.items() if version is not None}
    return {"vlmpipe": vlmpipe.__version__, **known}


def device_facts(machine: Machine) -> dict[str, Any]:
    """The machine in numbers that a later reader needs to judge timings by."""
    return {
        "python": machine.python,
        "system": machine.system,
        "cpu_count": machine.cpu_count,
        "ram_gib": round(machine.ram_gib, 1),
        "gpus": [_gpu_facts(asdict(gpu)) for gpu in machine.gpus],
        "llama_cpp_cuda": machine.llama_cpp_cuda,
    }


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, `-dirty` added where it was edited.

    None for an installed package: a repository that merely contains the environment is not ours.
    """
    package = Path(vlmpipe.__file__).resolve().parent
    root = package.parents[1]
    if package != root / "src" / "vlmpipe" or not (root / ".git").exists():
        return None
    commit = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    answer = answer_of(["git", "-C", root, *commit])
    return answer.strip() if answer else None


def _gpu_facts(gpu: dict[str, Any]) -> dict[str, Any]:
    """Without what names the single card or changes by the second."""
    gpu["total_gib"] = round(gpu["total_gib"], 1) if gpu["total_gib"] else None
    return {key: value for key, value in gpu.items() if key not in ("uuid", "free_gib")}
