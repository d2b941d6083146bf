"""What is declared, pinned and checked about the package as a whole."""

from __future__ import annotations

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import vlmpipe
from vlmpipe.system.libraries import canonical, installed

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared() -> dict[str, Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    texts = itertools.chain(PROJECT["dependencies"], *extras)
    requirements = [Requirement(text) for text in texts]
    return {canonical(each.name): each for each in requirements}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): pin for name, pin in pairs}


def third_party_imports() -> dict[str, str]:
    """Top module to a file that imports it, over the whole package."""
    found: dict[str, str] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found |= {name.split(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names}


def test_every_declared_library_is_pinned_within_its_range() -> None:
    pinned = pins()
    assert set(declared()) == set(pinned)
    for name, requirement in declared().items():
        assert requirement.specifier.contains(Version(pinned[name])), name


def test_every_pin_has_its_reason_above_it() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for above, line in itertools.pairwise(lines):
        if line and not line.startswith("#"):
            assert re.match(r"# \w", above), f"{line} has no reason"


def test_this_environment_holds_the_pinned_versions() -> None:
    found = {name: installed(name) for name in pins()}
    wrong = {
        name: version
        for name, version in found.items()
        if version is None or version.partition("+")[0] != pins()[name]
    }
    assert not wrong, "run `make setup`"


def test_torchvision_is_never_asked_for() -> None:
    assert "torchvision" not in declared()


def test_every_imported_library_is_declared() -> None:
    owners = packages_distributions()
    known = set(declared()) | {"vlmpipe"}
    optional = {"torchvision", "wandb", "mlflow", "flash_attn"}
    optional |= {"llmcompressor", "compressed_tensors"}  # in an environment of their own
    vendored = {"convert_hf_to_gguf", "gguf"}  # llama.cpp's own, in the converter's child process
    undeclared = {
        module: path
        for module, path in third_party_imports().items()
        if module not in optional | vendored
        and not known & {canonical(owner) for owner in owners.get(module, [module])}
    }
    assert not undeclared


def test_the_version_is_that_of_the_package() -> None:
    assert "version" in PROJECT["dynamic"]
    assert installed("vlmpipe") == vlmpipe.__version__


def test_layers_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with the real Makefile and set-up script, and next to nothing on its path."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "grep", "dirname", "make", "touch", "cat"):
        (tools / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    return tmp_path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def environment_without_llama(folder: Path) -> None:
    program(folder / ".venv/bin/python", "exit 1")
    program(folder / ".venv/bin/pip", 'echo "pip $CMAKE_ARGS $*" >> pip.log')


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(folder / "tools"), "HOME": str(folder)}
    argv = [str(folder / "tools" / "make"), *words]
    return subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_missing_compiler_is_said_in_one_line_with_the_remedy(bare: Path) -> None:
    environment_without_llama(bare)
    done = make(bare, "setup")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("setup:")]
    assert "no C++ compiler" in line
    assert "apt-get install g++" in line
    assert not (bare / "pip.log").exists()


def test_a_missing_python_names_the_way_to_another(bare: Path) -> None:
    done = make(bare, "setup", "PYTHON=python3.99")
    assert done.returncode != 0
    assert "python3.99 is not here" in done.stderr
    assert "make setup PYTHON=" in done.stderr


def test_setup_compiles_for_the_cpu_where_there_is_no_gpu(bare: Path) -> None:
    environment_without_llama(bare)
    program(bare / "tools/g++", "exit 0")
    program(bare / "tools/nvcc", "exit 0")
    done = make(bare, "setup")
    assert done.returncode == 0, done.stderr
    assert "about 5 minutes" in done.stdout
    first, second, third = (bare / "pip.log").read_text().splitlines()
    assert "--no-binary llama-cpp-python llama-cpp-python==" in first
    assert "GGML_CUDA" not in first
    assert "-c constraints.txt" in second
    assert "--target .venv/oracle torchvision==" in third


def test_setup_compiles_with_cuda_where_nvcc_and_a_gpu_are_here(bare: Path) -> None:
    environment_without_llama(bare)
    for name in ("g++", "nvcc", "nvidia-smi"):
        program(bare / "tools" / name, "exit 0")
    assert make(bare, "setup").returncode == 0
    first = (bare / "pip.log").read_text().splitlines()[0]
    assert "-DGGML_CUDA=on" in first
    assert "--no-cache-dir" in first


def test_setup_runs_again_only_when_what_it_installs_changed(bare: Path) -> None:
    environment_without_llama(bare)
    program(bare / "tools/g++", "exit 0")
    log = bare / "pip.log"
    assert make(bare, "setup").returncode == 0
    once = log.read_text()
    assert make(bare, "setup").returncode == 0
    assert log.read_text() == once
    later = (bare / ".venv/.installed").stat().st_mtime + 10
    os.utime(bare / "constraints.txt", (later, later))
    assert make(bare, "setup").returncode == 0
    assert len(log.read_text()) > len(once)


def test_clean_finds_what_it_looks_into_and_leaves_runs_alone(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("src", "tests", "scripts", "outputs"):
        (tmp_path / name / "__pycache__").mkdir(parents=True)
    done = subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "src").iterdir())
    assert (tmp_path / "outputs" / "__pycache__").is_dir()
