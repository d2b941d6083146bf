"""What a configuration asks of a GPU, where there is one: CUDA, memory, bfloat16, llama.cpp."""

from __future__ import annotations

import math
from collections.abc import Iterator

from vlmpipe.config import Config
from vlmpipe.system.llama_cpp import cuda_build_command
from vlmpipe.system.probes import Gpu, Machine, Version
from vlmpipe.system.rows import Requirement, Status, ok_or, whole_gib

OLDEST_CUDA: Version = (12, 4)
HIDE_GPU = "or hide the GPU and use the CPU: CUDA_VISIBLE_DEVICES="

WEIGHT_SHARE = {"qlora": 0.25, "lora": 1.0, "full": 2.0}
"""Least GPU memory of a method, as a multiple of the 16-bit weights: 4 bits a weight, 16 bits,
and 16 bits with a gradient of 16 bits. Activations and optimiser state come on top."""


def gpu_rows(
    config: Config, machine: Machine, *, large: bool, weights_gib: float | None
) -> Iterator[Requirement]:
    """Rows about the GPU; `weights_gib` is the model's size in 16 bit, None where not known."""
    if not machine.gpus:
        yield _no_gpu(config, large=large)
        return
    lacking: Status = "missing" if large else "advice"
    yield _torch_cuda(machine, lacking)
    yield _driver_cuda(machine, lacking)
    for gpu in machine.gpus:
        yield _memory(config, gpu, lacking, weights_gib)
        yield _bf16(config, gpu)
    yield from _llama_cpp_cuda(machine)


def _no_gpu(config: Config, *, large: bool) -> Requirement:
    offload = config.deploy.n_gpu_layers
    if offload:
        return Requirement(
            requirement="GPU",
            needed=f"deploy.n_gpu_layers={offload} asks for one",
            found="none",
            status="advice",
            remedy="leave deploy.n_gpu_layers unset; all layers run on the CPU here",
        )
    return ok_or(
        "advice",
        not large,
        requirement="GPU",
        needed=f"advised for {config.model.id}" if large else "none for an embedded model",
        found="none",
        remedy="run on a machine with an NVIDIA GPU; on the CPU everything works, far slower",
    )


def _torch_cuda(machine: Machine, lacking: Status) -> Requirement:
    built = machine.torch_cuda
    return ok_or(
        lacking,
        built is not None and built >= OLDEST_CUDA,
        requirement="torch with CUDA",
        needed=f">={_dotted(OLDEST_CUDA)}",
        found=_dotted(built) if built else "a torch built for the CPU only",
        remedy=f"install the CUDA build of the torch that constraints.txt pins, {HIDE_GPU}",
    )


def _driver_cuda(machine: Machine, lacking: Status) -> Requirement:
    # Within a major version a driver runs newer builds; across one it does not.
    built = machine.torch_cuda or OLDEST_CUDA
    needed = max(OLDEST_CUDA, (built[0], 0))
    found = machine.driver_cuda
    return ok_or(
        lacking,
        found is not None and found >= needed,
        requirement="CUDA of the driver",
        needed=f">={_dotted(needed)}",
        found=_dotted(found) if found else "not told by nvidia-smi",
        remedy=f"install a newer NVIDIA driver, {HIDE_GPU}",
    )


def _memory(config: Config, gpu: Gpu, lacking: Status, weights_gib: float | None) -> Requirement:
    method = config.train.method
    least = weights_gib * WEIGHT_SHARE[method] if weights_gib else None
    free = gpu.free_gib
    return ok_or(
        lacking,
        least is None or free is None or free >= least,
        requirement=f"free memory of GPU {gpu.index}",
        needed=f"{math.ceil(least)} GiB for {method}'s weights alone" if least else "any",
        found=f"{gpu.name}, {whole_gib(free)} free" if free is not None else f"{gpu.name}, unknown",
        remedy="stop what else runs on the GPU, take a smaller model"
        + (", or train.method=qlora" if method != "qlora" else ""),
    )


def _bf16(config: Config, gpu: Gpu) -> Requirement:
    capability = gpu.compute_capability
    asked = [
        key
        for key, value in (
            ("model.dtype", config.model.dtype),
            ("train.quantization.compute_dtype", _compute_dtype(config)),
        )
        if value == "bfloat16"
    ]
    advice = "training uses fp16 with loss scaling here"
    if asked:
        advice += "; set " + " ".join(f"{key}=float16" for key in asked)
    return ok_or(
        "advice",
        gpu.has_bf16,
        requirement=f"bfloat16 on GPU {gpu.index}",
        needed="compute capability >=8.0",
        found=f"{gpu.name}, {_dotted(capability) if capability else 'unknown'}",
        remedy=advice,
    )


def _compute_dtype(config: Config) -> str | None:
    return config.train.quantization.compute_dtype if config.train.method == "qlora" else None


def _llama_cpp_cuda(machine: Machine) -> Iterator[Requirement]:
    if machine.llama_cpp is None:
        return  # the row of the library says so already
    nvcc = machine.nvcc
    yield ok_or(
        "advice",
        machine.llama_cpp_cuda,
        requirement="llama-cpp-python with CUDA",
        needed="to convert and serve on the GPU",
        found="a CUDA build" if machine.llama_cpp_cuda else "a build for the CPU only",
        remedy=("" if nvcc else "install the CUDA toolkit (nvcc), then: ") + cuda_build_command(),
    )
    yield ok_or(
        "advice",
        nvcc is not None or machine.llama_cpp_cuda,
        requirement="nvcc",
        needed=f">={_dotted(OLDEST_CUDA)}, to build llama.cpp with CUDA",
        found=_dotted(nvcc) if nvcc else "not on the path",
        remedy="install the CUDA toolkit and put its bin folder on PATH",
    )


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
