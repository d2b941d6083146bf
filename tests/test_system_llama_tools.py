"""llama.cpp's programs: built once per version, whole or not at all, explained when they fail."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vlmpipe.errors import ToolError
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.system import llama_tools
from vlmpipe.system.llama_cpp import LlamaCppSources

CMAKE = """#!/bin/sh
# Builds what the real one would be asked for, in the folder that it is given.
case "$1" in
-S) mkdir -p "$4/bin" && echo "configured $4" ;;
--build)
    echo "[1/2] Building CXX object a.o"
    for name in llama-quantize llama-imatrix llama-server llama-mtmd-cli; do
        printf '#!/bin/sh\\necho %s\\n' "$name" > "$2/bin/$name" && chmod +x "$2/bin/$name"
    done
    echo "[2/2] Linking" ; echo built >> "$BUILDS" ;;
esac
"""
BROKEN = """#!/bin/sh
echo "CMake Error: No CMAKE_CXX_COMPILER could be found."
exit 1
"""


@pytest.fixture
def sources(tmp_path: Path) -> LlamaCppSources:
    folder = tmp_path / "sources"
    folder.mkdir()
    return LlamaCppSources(folder, "9.9.9", None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILDS", str(tmp_path / "builds"))
    monkeypatch.setattr(llama_tools, "built_with_cuda", lambda: False)
    return tmp_path / "cache" / "llama.cpp" / "tools"


def put_cmake(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cmake of ours before the machine's."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "cmake").write_text(script)
    (programs / "cmake").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


class Watcher(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[float, float | None]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, label: str, done: float, total: float | None, **fields: str) -> None:
        self.steps.append((done, total))


def test_the_programs_are_built_once_and_stand_alone(
    home: Path, sources: LlamaCppSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_cmake(tmp_path, CMAKE, monkeypatch)
    watcher = Watcher()
    assert llama_tools.cached_tools(sources) is None
    tools = llama_tools.llama_tools(watcher, sources)
    assert llama_tools.llama_tools(watcher, sources) == tools
    assert llama_tools.cached_tools(sources) == tools
    assert tools.folder == home / "9.9.9-cpu"
    assert {path.name for path in tools.folder.iterdir()} == set(llama_tools.PROGRAMS)
    named = {tools.quantize, tools.imatrix, tools.server, tools.mtmd_cli}
    assert named == {tools.folder / program for program in llama_tools.PROGRAMS}
    assert (tmp_path / "builds").read_text() == "built\n"
    assert [str(home / "build-9.9.9-cpu.log") in note for note in watcher.notes] == [True]
    assert not (home / ".build-9.9.9-cpu").exists()


def test_runs_that_start_together_build_once(
    home: Path, sources: LlamaCppSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_cmake(tmp_path, CMAKE, monkeypatch)
    start = threading.Barrier(2)

    def build(_: int) -> llama_tools.LlamaTools:
        start.wait()
        return llama_tools.llama_tools(SilentReporter(), sources)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(build, range(2))
    assert first == second
    assert (tmp_path / "builds").read_text() == "built\n"


def test_a_failed_build_leaves_no_programs_and_shows_its_last_words(
    home: Path, sources: LlamaCppSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_cmake(tmp_path, BROKEN, monkeypatch)
    with pytest.raises(ToolError, match=r"building llama\.cpp's programs: cmake ended") as caught:
        llama_tools.llama_tools(SilentReporter(), sources)
    assert any("No CMAKE_CXX_COMPILER" in line for line in caught.value.problems)
    assert any("apt-get install g++ cmake" in remedy for remedy in caught.value.remedies)
    assert any("build-9.9.9-cpu.log" in remedy for remedy in caught.value.remedies)
    assert llama_tools.cached_tools(sources) is None
    put_cmake(tmp_path, CMAKE, monkeypatch)
    assert llama_tools.llama_tools(SilentReporter(), sources).server.is_file()


def test_a_lost_program_is_built_again(
    home: Path, sources: LlamaCppSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_cmake(tmp_path, CMAKE, monkeypatch)
    tools = llama_tools.llama_tools(SilentReporter(), sources)
    tools.server.unlink()
    assert llama_tools.cached_tools(sources) is None
    assert llama_tools.llama_tools(SilentReporter(), sources).server.is_file()


@pytest.mark.parametrize(
    ("lines", "steps"),
    [
        (["$ cmake -S", "-- Configuring done"], None),
        (["[5/214] Building", "[12/214] Building a.o", "warning: [x]"], (12, 214)),
        (["[  7%] Building", "[ 42%] Linking"], (42, 100)),
        (["[214/214] Linking", "$ cmake --build again"], None),
    ],
)
def test_progress_is_read_from_the_builds_own_log(
    lines: list[str], steps: tuple[int, int] | None, tmp_path: Path
) -> None:
    log = tmp_path / "build.log"
    assert llama_tools.build_steps(log) is None
    log.write_text("\n".join(lines) + "\n")
    assert llama_tools.build_steps(log) == steps


def test_programs_of_a_checkout_are_kept_by_its_commit(home: Path, tmp_path: Path) -> None:
    named = LlamaCppSources(tmp_path, "checkout", "0123456789abcdef")
    for program in llama_tools.PROGRAMS:
        path = home / "checkout-0123456789ab-cpu" / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
    assert llama_tools.cached_tools(named) is not None
    with pytest.raises(ToolError, match="is no git checkout"):
        llama_tools.cached_tools(LlamaCppSources(tmp_path, "checkout", None))
