"""What this machine is, found without importing torch."""

from __future__ import annotations

import csv
import io
import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import psutil

from vlmpipe.system import llama_cpp
from vlmpipe.system.process import answer_of

GIB = 2**30
Version = tuple[int, int]

GPU_FIELDS = "index,uuid,name,memory.total,memory.free,compute_cap,driver_version"


@dataclass(frozen=True)
class Gpu:
    """A GPU that CUDA programs of this process would see."""

    index: int
    uuid: str
    name: str
    total_gib: float | None
    free_gib: float | None
    compute_capability: Version | None
    driver: str

    @property
    def has_bf16(self) -> bool:
        """Ampere (8.0) is the first generation that multiplies bfloat16; V100 is 7.0."""
        return self.compute_capability is not None and self.compute_capability >= (8, 0)


@dataclass(frozen=True)
class Machine:
    """Facts of the machine; None where a thing is not there."""

    python: str
    system: str
    cpu_count: int
    ram_gib: float
    swap_gib: float
    gpus: tuple[Gpu, ...]
    driver_cuda: Version | None
    """Newest CUDA that the driver runs."""

    torch_cuda: Version | None
    """CUDA that torch was built with."""

    nvcc: Version | None
    compiler: str | None
    """Name of a C++ compiler on the path."""

    cmake: bool
    llama_cpp: str | None
    """Version of llama-cpp-python."""

    llama_cpp_cuda: bool


def probe_machine() -> Machine:
    """Look at everything; takes well under a second where nvidia-smi answers at once."""
    gpus = visible_gpus()
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu_count=os.cpu_count() or 1,
        ram_gib=psutil.virtual_memory().total / GIB,
        swap_gib=psutil.swap_memory().total / GIB,
        gpus=gpus,
        driver_cuda=driver_cuda_version() if gpus else None,
        torch_cuda=torch_cuda_build(),
        nvcc=_found_version(answer_of(["nvcc", "--version"]), r"release "),
        compiler=next((name for name in compilers() if shutil.which(name)), None),
        cmake=shutil.which("cmake") is not None,
        llama_cpp=llama_cpp.installed_version(),
        llama_cpp_cuda=bool(llama_cpp.built_with_cuda()),
    )


def compilers() -> tuple[str, ...]:
    """Names under which a C++ compiler is looked for, `$CXX` first."""
    own = os.environ.get("CXX")
    return (*([own] if own else []), "g++", "clang++", "c++")


def visible_gpus() -> tuple[Gpu, ...]:
    """GPUs that nvidia-smi lists and `CUDA_VISIBLE_DEVICES` does not hide."""
    text = answer_of(["nvidia-smi", f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader,nounits"])
    rows = csv.reader(io.StringIO(text or ""), skipinitialspace=True)
    gpus = [gpu for gpu in map(_gpu_of, rows) if gpu is not None]
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return tuple(gpus)
    names = [name.strip() for name in shown.split(",")]
    return tuple(gpu for gpu in gpus if _is_named(gpu, names))


def torch_cuda_build() -> Version | None:
    """CUDA version that the installed torch was built with, read from its files."""
    try:
        path = Path(str(distribution("torch").locate_file("torch/version.py")))
        text = path.read_text(encoding="utf-8")
    except (PackageNotFoundError, OSError):
        return None
    return _found_version(text, r"(?m)^cuda\b[^=]*=\s*['\"]")


def driver_cuda_version() -> Version | None:
    """Newest CUDA version that the NVIDIA driver runs; only nvidia-smi's heading tells it."""
    return _found_version(answer_of(["nvidia-smi"]), r"CUDA Version:\s*")


def free_disk_gib(folder: Path) -> float:
    """Free space where `folder` is, or would be made."""
    there = folder.expanduser().absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free / GIB


def _gpu_of(row: list[str]) -> Gpu | None:
    if len(row) != len(GPU_FIELDS.split(",")) or not row[0].isdigit():
        return None
    return Gpu(
        index=int(row[0]),
        uuid=row[1],
        name=row[2],
        total_gib=_mib_to_gib(row[3]),
        free_gib=_mib_to_gib(row[4]),
        compute_capability=_found_version(row[5], ""),
        driver=row[6],
    )


def _is_named(gpu: Gpu, names: list[str]) -> bool:
    return str(gpu.index) in names or any(name and gpu.uuid.startswith(name) for name in names)


def _mib_to_gib(text: str) -> float | None:
    """None for what old drivers and partitioned GPUs answer: `[N/A]`."""
    return int(text) / 1024 if text.isdigit() else None


def _found_version(text: str | None, before: str) -> Version | None:
    found = re.search(before + r"(\d+)\.(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else None
