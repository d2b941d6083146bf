"""Mermaid's own parser, which runs on Node: installed once for all runs, when asked for."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from filelock import FileLock

from vlmpipe.errors import ToolError
from vlmpipe.pipeline.events import Reporter
from vlmpipe.system.cache import cache_folder
from vlmpipe.system.process import run_program

LISTS = ("package.json", "package-lock.json")
NPM_OPTIONS = (
    *("--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"),
)
INSTALL_TIMEOUT_S = 1200.0
HOW = "install Node 20.19 or newer with npm (https://nodejs.org), then: make mermaid"


@dataclass(frozen=True)
class MermaidTool:
    """What it takes to start the parser."""

    node: Path
    script: Path
    folder: Path
    """Where `node_modules` lies."""


def installed_mermaid() -> MermaidTool | None:
    """The parser, when Node is on the path and `make mermaid` was run; None otherwise."""
    node, folder = shutil.which("node"), mermaid_folder()
    if node is None or not (folder / "node_modules").is_dir():
        return None
    return MermaidTool(Path(node), _shipped() / "parser.mjs", folder)


def why_no_mermaid() -> str | None:
    """Why validity of charts cannot be measured here, and the way out; None where it can."""
    if installed_mermaid():
        return None
    missing = "node is not on the path" if shutil.which("node") is None else "it is not installed"
    return f"no Mermaid parser ({missing}), so `valid` of charts is not measured; {HOW}"


def install_mermaid(reporter: Reporter) -> MermaidTool:
    """The parser, fetched by npm into the shared cache where it is not there yet.

    Exactly the packages of the shipped lock file, whose hashes npm checks; none of their
    installation scripts is run.

    Raises:
        ToolError: when Node or npm is not there, or when npm fails, with its last lines.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise ToolError(f"{program} is not on the path", HOW)
    folder = mermaid_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not folder.is_dir():
            reporter.note("installing Mermaid's parser with npm, once for all runs")
            _install(folder)
    found = installed_mermaid()
    if found is None:
        raise ToolError(f"{folder} is damaged", "remove that folder, then: make mermaid")
    return found


def mermaid_folder() -> Path:
    """Where the packages of the shipped lock file belong: a folder of their own in the cache."""
    lock = (_shipped() / "package-lock.json").read_bytes()
    return cache_folder() / "mermaid" / hashlib.sha256(lock).hexdigest()[:12]


def _shipped() -> Path:
    return Path(str(resources.files("vlmpipe.system"))) / "mermaid_parser"


def _install(folder: Path) -> None:
    """Written aside and renamed, so that `folder` is whole or absent."""
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name in LISTS:
            shutil.copy(_shipped() / name, aside / name)
        run_program(
            ["npm", "ci", *NPM_OPTIONS],
            what="installing Mermaid's parser",
            log=folder.parent / f"install-{folder.name}.log",
            timeout_s=INSTALL_TIMEOUT_S,
            cwd=aside,
            remedies=(
                "npm needs its package registry: check the network, or `npm config get registry`",
                "or go on without: `valid` of charts is then not measured",
            ),
        )
        aside.chmod(0o755)
        aside.rename(folder)
    except OSError as exc:
        raise ToolError(
            f"cannot put Mermaid's parser into {folder}: {exc}",
            "make room there, or name another place: VLMPIPE_CACHE=DIR",
        ) from exc
    finally:
        shutil.rmtree(aside, ignore_errors=True)
