"""What a configuration requires, each held against the machine, with the remedy where it lacks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import metadata
from typing import Literal

from vlmpipe.config import Config
from vlmpipe.system import gpu_requirements, llama_cpp
from vlmpipe.system.known_bad import known_bad
from vlmpipe.system.libraries import Library, declared_libraries, installed, within
from vlmpipe.system.probes import Machine, compilers, free_disk_gib
from vlmpipe.system.rows import Requirement, Status, ok_or, whole_gib
from vlmpipe.system.weights import local_weights, model_kind, parameter_count

EXTRAS = ("train", "serve", "eval")
OPTIONAL_LIBRARIES = {"qwen-vl-utils": "our resize is then not held against its own in the tests"}
ADVISED_SWAP_GIB = 16
BYTES_16_BIT = 2
GIB = 2**30


@dataclass(frozen=True)
class Model:
    """What is known of the base model before it is loaded."""

    kind: Literal["embedded", "folder", "hub"]
    id: str
    parameters: int | None
    """None where its weights are not on this machine yet."""

    @property
    def is_large(self) -> bool:
        """Embedded models are tiny; any other may be big."""
        return self.kind != "embedded"

    @property
    def gib_16_bit(self) -> float | None:
        """Size of the weights in 16 bit."""
        return self.parameters * BYTES_16_BIT / GIB if self.parameters else None


def requirements_of(config: Config, machine: Machine) -> list[Requirement]:
    """Every requirement of this configuration, in the order that a person would mend them."""
    model = describe_model(config)
    rows = [_python(machine)]
    rows += _libraries(config)
    rows += _known_bad(config, machine)
    rows += gpu_requirements.gpu_rows(
        config, machine, large=model.is_large, weights_gib=model.gib_16_bit
    )
    rows += _memory_and_disk(config, machine, model)
    rows += _build_tools(machine)
    rows += _llama_cpp(config, machine)
    rows += _base_model(model)
    return rows


def describe_model(config: Config) -> Model:
    """Look at the base model's files, where they are on this machine."""
    kind = model_kind(config.model.id)
    folder = None if kind == "embedded" else local_weights(config.model.id)
    return Model(kind, config.model.id, parameter_count(folder) if folder else None)


def _python(machine: Machine) -> Requirement:
    needed = metadata("vlmpipe")["Requires-Python"] or ""
    return ok_or(
        "missing",
        within(machine.python, needed),
        requirement="Python",
        needed=needed,
        found=machine.python,
        remedy=f"install Python {needed}, remove .venv, then: make setup PYTHON=python3.12",
    )


def _libraries(config: Config) -> Iterator[Requirement]:
    for library in declared_libraries(EXTRAS):
        if library.name != "bitsandbytes" or _uses_bitsandbytes(config):
            yield _library(library)
    for name, key in _asked_for(config):
        yield ok_or(
            "missing",
            installed(name) is not None,
            requirement=name,
            needed=f"{key} asks for it",
            found=installed(name) or "not installed",
            remedy=f"pip install {name}, or change {key.partition('=')[0]}",
        )


def _library(library: Library) -> Requirement:
    effect = OPTIONAL_LIBRARIES.get(library.name)
    return ok_or(
        "advice" if effect and library.found is None else "missing",
        library.fits,
        requirement=library.name,
        needed=library.specifier,
        found=library.found or "not installed",
        remedy="make setup" + (f" ({effect})" if effect else ""),
    )


def _uses_bitsandbytes(config: Config) -> bool:
    return config.train.method == "qlora" or "8bit" in config.train.optimizer


def _asked_for(config: Config) -> Iterator[tuple[str, str]]:
    """Distributions outside the declared ones that a key asks for."""
    for tracker in config.train.report_to:
        yield tracker, f"train.report_to={tracker}"
    if config.model.attn_implementation == "flash_attention_2":
        yield "flash-attn", "model.attn_implementation=flash_attention_2"


def _known_bad(config: Config, machine: Machine) -> Iterator[Requirement]:
    names = ("torch", "torchvision", "transformers")
    versions = {name: installed(name) for name in names}
    for entry in known_bad(versions, config.model.id, gpu=bool(machine.gpus)):
        found = ", ".join(f"{name} {versions[name]}" for name in entry.libraries)
        yield Requirement(
            requirement="versions that work together",
            needed=f"another combination ({entry.source}): {entry.effect}",
            found=found,
            status="missing" if entry.breaks else "advice",
            remedy=entry.remedy,
        )


def _memory_and_disk(config: Config, machine: Machine, model: Model) -> Iterator[Requirement]:
    weights = model.gib_16_bit
    yield ok_or(
        "advice",
        weights is None or machine.ram_gib >= weights,
        requirement="RAM",
        needed=f"{math.ceil(weights)} GiB for the 16-bit weights alone" if weights else "any",
        found=f"{math.floor(machine.ram_gib)} GiB",
        remedy="take a smaller model, or add memory or swap: merge and convert hold the weights",
    )
    swap = ADVISED_SWAP_GIB if model.is_large else 0
    yield ok_or(
        "advice",
        # A 16 GiB swap file shows as a page less.
        round(machine.swap_gib) >= swap,
        requirement="swap",
        needed=f"{swap} GiB advised" if swap else "none for an embedded model",
        found=f"{round(machine.swap_gib)} GiB",
        remedy=f"fallocate -l {swap}G /swapfile && chmod 600 /swapfile && mkswap /swapfile"
        " && swapon /swapfile (as root)",
    )
    yield _disk(config, model)


def _disk(config: Config, model: Model) -> Requirement:
    free = free_disk_gib(config.run.outputs_dir)
    # merge writes the weights in 16 bit and convert writes them once more as f16.
    needed = 2 * model.gib_16_bit if model.gib_16_bit else None
    return ok_or(
        "missing",
        needed is None or free >= needed,
        requirement="disk",
        needed=f"{math.ceil(needed)} GiB for the merged and the f16 weights, more for the quants"
        if needed
        else "room for the outputs",
        found=f"{whole_gib(free)} free",
        remedy="free some space, or write elsewhere: run.outputs_dir=DIR",
    )


def _build_tools(machine: Machine) -> Iterator[Requirement]:
    lacking: Status = "advice" if machine.llama_cpp else "missing"
    yield ok_or(
        lacking,
        machine.compiler is not None,
        requirement="C++ compiler",
        needed="to build llama-cpp-python" + (" anew" if machine.llama_cpp else ""),
        found=machine.compiler or f"none of {', '.join(compilers())}",
        remedy="install one: apt-get install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora)",
    )


def _llama_cpp(config: Config, machine: Machine) -> Iterator[Requirement]:
    override = config.convert.llama_cpp_dir
    if override is not None:
        folder = override.expanduser()
        yield ok_or(
            "missing",
            (folder / llama_cpp.CONVERTER).is_file(),
            requirement="llama.cpp sources",
            needed=f"convert.llama_cpp_dir holding {llama_cpp.CONVERTER}",
            found=str(override),
            remedy="point convert.llama_cpp_dir at the top of a llama.cpp checkout, or unset it",
        )
        return
    cached = llama_cpp.cached_sources() is not None
    yield Requirement(
        requirement="llama.cpp sources",
        needed=f"those of llama-cpp-python {machine.llama_cpp or '(not installed)'}",
        found="in the shared cache" if cached else "not here yet; setup fetches them",
        status="ok",
    )


def _base_model(model: Model) -> Iterator[Requirement]:
    if model.kind == "embedded":
        return
    here = model.parameters is not None
    found = f"{(model.parameters or 0) / 1e9:.1f} billion parameters" if here else "not here"
    if model.kind == "hub" and not here:
        found = "not here yet; setup downloads it"
    yield ok_or(
        "missing",
        here or model.kind == "hub",
        requirement="base model",
        needed=f"safetensors weights of {model.id}",
        found=found,
        remedy="set model.id to a folder with safetensors weights, or to a hub id",
    )
