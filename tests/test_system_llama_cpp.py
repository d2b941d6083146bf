"""The llama.cpp sources: unpacked safely and whole, fetched once, explained when they cannot be."""

from __future__ import annotations

import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vlmpipe.errors import ToolError
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.system import llama_cpp
from vlmpipe.system.cache import cache_folder

TOP = "llama_cpp_python-9.9.9"
WHOLE = {
    f"{TOP}/vendor/llama.cpp/convert_hf_to_gguf.py": "print('converted')\n",
    f"{TOP}/vendor/llama.cpp/gguf-py/gguf/__init__.py": "",
    f"{TOP}/vendor/llama.cpp/.git": "gitdir: elsewhere\n",
    f"{TOP}/.git/modules/vendor/llama.cpp/HEAD": "0c1e57098bba\n",
    f"{TOP}/llama_cpp/llama.py": "",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(llama_cpp, "installed_version", lambda: "9.9.9")
    return tmp_path / "cache" / "llama.cpp"


def write_archive(path: Path, files: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_an_archive_in_the_cache_is_unpacked_without_a_download(cache: Path) -> None:
    archive = write_archive(cache / f"{TOP}.tar.gz", WHOLE)
    sources = llama_cpp.llama_cpp_sources(None, SilentReporter())
    assert sources.folder == cache / "9.9.9"
    assert sources.converter.read_text() == "print('converted')\n"
    assert sources.gguf_package.is_dir()
    assert (sources.version, sources.commit) == ("9.9.9", "0c1e57098bba")
    assert not archive.exists()


def test_only_llama_cpp_is_unpacked(cache: Path) -> None:
    write_archive(cache / f"{TOP}.tar.gz", WHOLE)
    folder = llama_cpp.llama_cpp_sources(None, SilentReporter()).folder
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    converter, package = "convert_hf_to_gguf.py", "gguf-py/gguf/__init__.py"
    assert names == {converter, package, llama_cpp.COMMIT_FILE}


def test_sources_are_reused_by_later_runs(cache: Path) -> None:
    write_archive(cache / f"{TOP}.tar.gz", WHOLE)
    first = llama_cpp.llama_cpp_sources(None, SilentReporter())
    (first.folder / "mark").touch()
    assert llama_cpp.llama_cpp_sources(None, SilentReporter()) == first
    assert (first.folder / "mark").exists()


def test_a_truncated_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.tar.gz", {**WHOLE, f"{TOP}/x": "y" * 200_000})
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(ToolError, match="cannot unpack"):
        llama_cpp.unpack_sources(archive, tmp_path / "out" / "9.9.9")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_path_that_climbs_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    evil = {**WHOLE, f"{TOP}/vendor/llama.cpp/../../../../evil": "x"}
    archive = write_archive(tmp_path / "a.tar.gz", evil)
    with pytest.raises(ToolError, match="cannot unpack"):
        llama_cpp.unpack_sources(archive, tmp_path / "out" / "deep" / "9.9.9")
    assert not list(tmp_path.rglob("evil"))


def test_an_archive_without_the_converter_is_refused(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.tar.gz", {f"{TOP}/vendor/llama.cpp/README.md": ""})
    with pytest.raises(ToolError, match="does not hold"):
        llama_cpp.unpack_sources(archive, tmp_path / "9.9.9")


def test_a_failed_download_names_the_way_around(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(ToolError) as caught:
        llama_cpp.llama_cpp_sources(None, SilentReporter())
    assert any("convert.llama_cpp_dir=DIR" in remedy for remedy in caught.value.remedies)
    assert any("fetch-9.9.9.log" in remedy for remedy in caught.value.remedies)
    assert not (cache / "9.9.9").exists()


def test_a_checkout_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "convert_hf_to_gguf.py").touch()
    sources = llama_cpp.llama_cpp_sources(tmp_path, SilentReporter())
    assert (sources.folder, sources.version) == (tmp_path.resolve(), "checkout")


def test_a_folder_that_is_no_checkout_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"convert\.llama_cpp_dir=.* holds no convert_hf_to_gguf"):
        llama_cpp.llama_cpp_sources(tmp_path, SilentReporter())


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMPIPE_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("VLMPIPE_CACHE")
    assert cache_folder() == Path("/b/vlmpipe")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/vlmpipe").expanduser()


@pytest.mark.slow
def test_the_real_archive_of_the_installed_version_holds_the_converter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if llama_cpp.installed_version() is None:
        pytest.skip("llama-cpp-python is not installed")
    if llama_cpp.cached_sources() is None:
        monkeypatch.setenv("VLMPIPE_CACHE", str(tmp_path))
    sources = llama_cpp.llama_cpp_sources(None, SilentReporter())
    assert (sources.folder / "conversion").is_dir()
    assert (sources.gguf_package / "gguf").is_dir()
    assert sources.commit is not None
    assert len(sources.commit) == 40


def test_runs_that_start_together_unpack_once(cache: Path) -> None:
    write_archive(cache / f"{TOP}.tar.gz", WHOLE)
    start = threading.Barrier(2)

    def fetch(_: int) -> llama_cpp.LlamaCppSources:
        start.wait()
        return llama_cpp.llama_cpp_sources(None, SilentReporter())

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fetch, range(2))
    assert first == second
    assert [path.name for path in cache.iterdir() if path.is_dir()] == ["9.9.9"]
