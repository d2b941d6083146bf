"""llama.cpp's own programs, built once per version for all runs; only what asks for them waits."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from vlmpipe.errors import ToolError
from vlmpipe.pipeline.events import Reporter
from vlmpipe.system.cache import cache_folder
from vlmpipe.system.llama_cpp import (
    LlamaCppSources,
    built_with_cuda,
    installed_version,
    llama_cpp_sources,
)
from vlmpipe.system.process import last_lines, run_program

PROGRAMS = ("llama-quantize", "llama-imatrix", "llama-server", "llama-mtmd-cli")
BUILD_TIMEOUT_S = 4 * 3600.0
"""A CUDA build on two cores takes more than an hour."""

FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",  # programs that stand alone can be moved when they are finished
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # on, it downloads
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)

STEP = re.compile(r"^\[\s*(\d+)(?:/(\d+)\]|%\])")
"""Ninja's `[12/340]`, make's `[ 12%]`."""

TAIL_BYTES = 64 * 1024
"""As much of a build's log as is read to see how far it got."""


@dataclass(frozen=True)
class LlamaTools:
    """Programs of one llama.cpp."""

    folder: Path

    @property
    def quantize(self) -> Path:
        """Writes a GGUF file in another type."""
        return self.folder / "llama-quantize"

    @property
    def imatrix(self) -> Path:
        """Measures an importance matrix on text."""
        return self.folder / "llama-imatrix"

    @property
    def server(self) -> Path:
        """The HTTP server."""
        return self.folder / "llama-server"

    @property
    def mtmd_cli(self) -> Path:
        """Asks one question with images."""
        return self.folder / "llama-mtmd-cli"


def cached_tools(sources: LlamaCppSources | None = None) -> LlamaTools | None:
    """The programs, when they were built before; `sources` as for `llama_tools`."""
    name = _name_of(sources) if sources else installed_version()
    if name is None:
        return None
    folder = _home() / _with_backend(name)
    whole = all(os.access(folder / program, os.X_OK) for program in PROGRAMS)
    return LlamaTools(folder) if whole else None


def llama_tools(reporter: Reporter, sources: LlamaCppSources | None = None) -> LlamaTools:
    """llama.cpp's programs, compiled into the shared cache where they are not there yet.

    They are of the llama.cpp that the installed llama-cpp-python holds, and of its backend (CPU or
    CUDA); `sources` names another source tree. A build that was broken off goes on where it was.

    Raises:
        ToolError: when there are no sources, no compiler, or the build fails, with its last lines
            and its log.
    """
    cached = cached_tools(sources)
    if cached is not None:
        return cached
    sources = sources or llama_cpp_sources(None, reporter)
    home, name = _home(), _with_backend(_name_of(sources))
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f".{name}.lock"):
        return cached_tools(sources) or _build(sources, home, name, reporter)


def build_steps(log: Path) -> tuple[int, int] | None:
    """How far the build that writes `log` is: steps done and in all; None before the first."""
    if not log.is_file():
        return None
    begin = max(0, log.stat().st_size - TAIL_BYTES)
    for line in reversed(last_lines(log, begin, count=1000)):
        match = STEP.match(line)
        if match:
            return int(match[1]), int(match[2] or 100)
        if line.startswith("$ "):
            return None
    return None


def _home() -> Path:
    return cache_folder() / "llama.cpp" / "tools"


def _name_of(sources: LlamaCppSources) -> str:
    """The version; for a checkout its commit, without which nothing tells one from the next."""
    if sources.version != "checkout":
        return sources.version
    if sources.commit is None:
        raise ToolError(
            f"{sources.folder} is no git checkout, so its programs cannot be kept by version",
            "leave convert.llama_cpp_dir unset: the installed llama-cpp-python's sources are built",
        )
    return f"checkout-{sources.commit[:12]}"


def _with_backend(name: str) -> str:
    return f"{name}-{'cuda' if built_with_cuda() else 'cpu'}"


def _build(sources: LlamaCppSources, home: Path, name: str, reporter: Reporter) -> LlamaTools:
    log, build = home / f"build-{name}.log", home / f".build-{name}"
    reporter.note(
        f"building llama.cpp's programs of {sources.version}, once for all runs:"
        f" about 10 minutes on 2 cores (log: {log})"
    )
    _compile(sources, build, log, lambda: _report(log, reporter))
    reporter.progress_done()
    _publish(build / "bin", home / name)
    shutil.rmtree(build, ignore_errors=True)
    return LlamaTools(home / name)


def _compile(sources: LlamaCppSources, build: Path, log: Path, watch: Callable[[], None]) -> None:
    cmake, ninja = _program("cmake"), _program("ninja")
    cuda = [f"-DGGML_CUDA={'ON' if built_with_cuda() else 'OFF'}"]
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    configure: list[str | Path] = [
        *(cmake or "cmake", "-S", sources.folder, "-B", build),
        *(*generator, *FLAGS, *cuda),
    ]
    compile_all: list[str | Path] = [
        *(cmake or "cmake", "--build", build, "--target", *PROGRAMS),
        *("--parallel", str(len(os.sched_getaffinity(0)))),
    ]
    for argv in (configure, compile_all):
        run_program(
            argv,
            what="building llama.cpp's programs",
            log=log,
            timeout_s=BUILD_TIMEOUT_S,
            remedies=(
                "a compiler and CMake are needed: apt-get install g++ cmake ninja-build",
                "or, for CMake alone: pip install cmake ninja",
                f"from the beginning: remove {build} and repeat; `make llama-tools`",
            ),
            watch=watch,
        )


def _program(name: str) -> str | None:
    """A program on the path, or beside the interpreter, where pip puts it."""
    return shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)


def _report(log: Path, reporter: Reporter) -> None:
    steps = build_steps(log)
    if steps:
        reporter.progress("building llama.cpp", steps[0], steps[1])


def _publish(built: Path, folder: Path) -> None:
    """The programs alone, copied aside and renamed, so that `folder` is whole or absent."""
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for program in PROGRAMS:
            shutil.copy2(built / program, aside / program)
        aside.chmod(0o755)
        if folder.exists():  # a part of it: somebody removed a program
            shutil.rmtree(folder)
        aside.rename(folder)
    except OSError as exc:
        raise ToolError(
            f"cannot put llama.cpp's programs into {folder}: {exc}",
            "make room there, or name another place: VLMPIPE_CACHE=DIR",
        ) from exc
    finally:
        shutil.rmtree(aside, ignore_errors=True)
