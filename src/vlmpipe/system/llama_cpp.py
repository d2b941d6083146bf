"""The llama.cpp sources that match the installed llama-cpp-python, fetched once for all runs."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path, PurePosixPath

from filelock import FileLock

from vlmpipe.errors import ToolError
from vlmpipe.pipeline.events import Reporter
from vlmpipe.pipeline.files import write_text
from vlmpipe.system.cache import cache_folder
from vlmpipe.system.process import answer_of, run_program

PACKAGE = "llama-cpp-python"
CONVERTER = "convert_hf_to_gguf.py"
COMMIT_FILE = ".vlmpipe-commit"
FETCH_TIMEOUT_S = 1800.0
VENDORED = PurePosixPath("vendor/llama.cpp")
"""Where the source archive of llama-cpp-python holds llama.cpp, below its top folder."""

VENDORED_HEAD = PurePosixPath(".git/modules/vendor/llama.cpp/HEAD")


@dataclass(frozen=True)
class LlamaCppSources:
    """A llama.cpp source tree."""

    folder: Path
    version: str
    """Of the llama-cpp-python that it belongs to; `checkout` for a folder given by the user."""

    commit: str | None

    @property
    def converter(self) -> Path:
        """The script that writes GGUF files from a Hugging Face folder."""
        return self.folder / CONVERTER

    @property
    def gguf_package(self) -> Path:
        """Folder to put first on `sys.path` for the converter: PyPI's gguf is older."""
        return self.folder / "gguf-py"


def installed_version() -> str | None:
    """Version of the installed llama-cpp-python, None where it is not installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return None


def built_with_cuda() -> bool | None:
    """Whether the installed llama-cpp-python has the CUDA backend; None where not installed."""
    try:
        files = distribution(PACKAGE).files or ()
    except PackageNotFoundError:
        return None
    return any(file.name.startswith("libggml-cuda") for file in files)


def cuda_build_command() -> str:
    """The command that puts a CUDA build in place of the installed one.

    pip's cache does not tell a CUDA build from another, so it must not be used here.
    """
    found = installed_version()
    name = f"{PACKAGE}=={found}" if found else PACKAGE
    return (
        f"CMAKE_ARGS=-DGGML_CUDA=on {_python()} -m pip install --force-reinstall --no-deps"
        f" --no-cache-dir --no-binary {PACKAGE} {name}"
    )


def cached_sources() -> LlamaCppSources | None:
    """The sources that match the installed llama-cpp-python, when a run fetched them before."""
    found = installed_version()
    if found is None:
        return None
    folder = _home() / found
    return _described(folder, found) if (folder / CONVERTER).is_file() else None


def llama_cpp_sources(override: Path | None, reporter: Reporter) -> LlamaCppSources:
    """The llama.cpp sources to convert with.

    `override` (`convert.llama_cpp_dir`) is taken as it is. Otherwise the source archive of the
    installed llama-cpp-python is fetched through pip and unpacked into the shared cache, once.

    Raises:
        ToolError: when `override` is no llama.cpp checkout, when llama-cpp-python is not
            installed, or when its archive cannot be fetched or read.
    """
    if override is not None:
        return _checkout(override)
    cached = cached_sources()
    if cached is not None:
        return cached
    found = installed_version()
    if found is None:
        raise ToolError(
            f"{PACKAGE} is not installed, so there is no llama.cpp to match",
            "install everything: make setup",
            "or convert with a checkout: convert.llama_cpp_dir=DIR",
        )
    home = _home()
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f".{found}.lock"):
        return cached_sources() or _fetch(found, home, reporter)


def unpack_sources(archive: Path, folder: Path) -> str | None:
    """Unpack llama.cpp from a llama-cpp-python source archive into `folder`; returns its commit.

    Written aside and renamed, so that `folder` is whole or absent.

    Raises:
        ToolError: when the archive is damaged or does not hold llama.cpp's converter.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        commit = _extract(archive, aside)
        if not (aside / CONVERTER).is_file():
            raise ToolError(
                f"{archive.name} does not hold {VENDORED / CONVERTER}",
                "convert with a checkout: convert.llama_cpp_dir=DIR",
            )
        if commit:
            write_text(aside / COMMIT_FILE, commit + "\n")
        aside.chmod(0o755)
        aside.rename(folder)
    except (tarfile.TarError, EOFError, OSError) as exc:
        raise ToolError(
            f"cannot unpack {archive} into {folder}: {exc}",
            "fetch it again: remove the archive and run `vlmpipe setup`",
            "or convert with a checkout: convert.llama_cpp_dir=DIR",
        ) from exc
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return commit


def _home() -> Path:
    return cache_folder() / "llama.cpp"


def _python() -> str:
    """The running interpreter as a person would type it."""
    here = os.path.relpath(sys.executable)
    return here if not here.startswith("..") else sys.executable


def _described(folder: Path, name: str) -> LlamaCppSources:
    mark = folder / COMMIT_FILE
    commit = mark.read_text(encoding="utf-8").strip() if mark.is_file() else None
    return LlamaCppSources(folder, name, commit)


def _checkout(folder: Path) -> LlamaCppSources:
    folder = folder.expanduser().resolve()
    if not (folder / CONVERTER).is_file():
        raise ToolError(
            f"convert.llama_cpp_dir={folder} holds no {CONVERTER}",
            "point it at the top of a llama.cpp checkout: convert.llama_cpp_dir=DIR",
            "or leave it unset: the sources of the installed llama-cpp-python are fetched",
        )
    head = answer_of(["git", "-C", folder, "rev-parse", "HEAD"])
    return LlamaCppSources(folder, "checkout", head.strip() if head else None)


def _fetch(found: str, home: Path, reporter: Reporter) -> LlamaCppSources:
    archive = _archive_in(home, found)
    if archive is None:
        reporter.note(f"fetching the llama.cpp sources of {PACKAGE} {found}, once for all runs")
        archive = _download(found, home)
    unpack_sources(archive, home / found)
    archive.unlink(missing_ok=True)
    return _described(home / found, found)


def _archive_in(folder: Path, found: str) -> Path | None:
    matches = sorted(folder.glob(f"llama_cpp_python-{found}.tar.gz"))
    return matches[0] if matches else None


def _download(found: str, home: Path) -> Path:
    """The source archive, moved into `home` only when pip has it whole."""
    with tempfile.TemporaryDirectory(prefix=".download.", dir=home) as aside:
        run_program(
            [
                *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"),
                *("--disable-pip-version-check", "--dest", aside, f"{PACKAGE}=={found}"),
            ],
            what=f"fetching the source archive of {PACKAGE} {found}",
            log=home / f"fetch-{found}.log",
            timeout_s=FETCH_TIMEOUT_S,
            remedies=(
                "convert with a llama.cpp checkout instead: convert.llama_cpp_dir=DIR",
                f"or put llama_cpp_python-{found}.tar.gz into {home} yourself",
            ),
        )
        archive = _archive_in(Path(aside), found)
        if archive is None:
            raise ToolError(
                f"pip fetched no llama_cpp_python-{found}.tar.gz",
                "convert with a llama.cpp checkout instead: convert.llama_cpp_dir=DIR",
            )
        return archive.rename(home / archive.name)


def _extract(archive: Path, folder: Path) -> str | None:
    """llama.cpp's own tree into `folder`; returns the commit that the archive records."""
    commit = None
    with tarfile.open(archive) as tar:
        for member, inside in _below_top(tar):
            if inside == VENDORED_HEAD:
                stream = tar.extractfile(member)
                commit = stream.read().decode().strip() if stream else None
            elif inside.is_relative_to(VENDORED) and inside != VENDORED / ".git":
                name = str(inside.relative_to(VENDORED))
                tar.extract(member.replace(name=name, deep=False), folder, filter="data")
    return commit


def _below_top(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Each member with its path below the archive's top folder."""
    for member in tar:
        parts = PurePosixPath(member.name).parts
        if len(parts) > 1:
            yield member, PurePosixPath(*parts[1:])
