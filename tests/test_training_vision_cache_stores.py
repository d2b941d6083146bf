"""Shards under what happens to files: several writers, kills, damage, full disks."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_cache_entries import NAMESPACE, WIDTH, features, is_kept, key
from vlmpipe.errors import StageError
from vlmpipe.training.vision_cache.entry import HEADER_BYTES, entry_bytes
from vlmpipe.training.vision_cache.features import ImageFeatures
from vlmpipe.training.vision_cache.namespace import Namespace
from vlmpipe.training.vision_cache.shards import SUFFIX
from vlmpipe.training.vision_cache.stores import DESCRIPTION_NAME, DiskStore


def filled(folder: Path, count: int = 3) -> Path:
    """A store's only shard, with that many entries."""
    store = DiskStore(folder, NAMESPACE)
    for number in range(count):
        store.put(key(number), features(number))
    store.flush()
    return shards_of(folder)[0]


def shards_of(folder: Path) -> list[Path]:
    return sorted((folder / NAMESPACE.name).glob(f"*{SUFFIX}"))


def writer(folder: Path, *arguments: int, go: Path, tokens: int = 500) -> subprocess.Popen[str]:
    """A process that is ready to write entries FIRST to LAST, or to DIE, as soon as `go` exists."""
    script = Path(__file__).parent / "vision_cache_entries.py"
    first, last, *die = (str(each) for each in arguments)
    command = [sys.executable, script, folder, first, last, str(tokens), go, *die]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def ready(process: subprocess.Popen[str]) -> IO[str]:
    """What it says from now on, once it is ready."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process.stdout


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("levels", [1, 4])
def test_what_was_put_comes_back_bit_for_bit(
    tmp_path: Path, levels: int, dtype: torch.dtype
) -> None:
    put = features(7, levels=levels, dtype=dtype)
    put.tokens[0, :3] = torch.tensor([float("nan"), -0.0, float("inf")])
    store = DiskStore(tmp_path, NAMESPACE)
    store.put(key(7), put)
    for reader in (store, DiskStore(tmp_path, NAMESPACE)):
        found = reader.get(key(7))
        assert found is not None
        assert len(found.deepstack) == levels - 1
        pairs = zip((found.tokens, *found.deepstack), (put.tokens, *put.deepstack), strict=True)
        for ours, theirs in pairs:
            assert ours.dtype == dtype
            assert torch.equal(ours.contiguous().view(torch.uint8), theirs.view(torch.uint8))
            assert ours.data_ptr() % 64 == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 4)), max_size=12))
def test_a_shard_is_exactly_as_long_as_was_foretold(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("foretold")
    store = DiskStore(folder, NAMESPACE)
    sizes = [
        store.put(key(number), features(number, tokens, levels))
        for number, (tokens, levels) in enumerate(shapes)
    ]
    assert sizes == [entry_bytes(tokens, WIDTH, levels, 2) for tokens, levels in shapes]
    assert sum(path.stat().st_size for path in shards_of(folder)) == sum(sizes) + 64 * bool(shapes)
    again = DiskStore(folder, NAMESPACE)
    assert all(again.get(key(number)) is not None for number in range(len(shapes)))


def test_a_folder_says_what_it_is(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, NAMESPACE)
    assert json.loads((store.folder / DESCRIPTION_NAME).read_text()) == {"of": "tests"}


def test_shards_are_limited_in_size(tmp_path: Path) -> None:
    limit = 64 + 2 * entry_bytes(5, WIDTH, 1, 2)
    store = DiskStore(tmp_path, NAMESPACE, shard_bytes=limit)
    for number in range(5):
        store.put(key(number), features(number))
    assert [path.stat().st_size <= limit for path in shards_of(tmp_path)] == [True] * 3
    assert all(is_kept(DiskStore(tmp_path, NAMESPACE), number) for number in range(5))


def test_a_reader_sees_what_others_finished_when_it_looks_again(tmp_path: Path) -> None:
    reader, other = (DiskStore(tmp_path, NAMESPACE) for _ in range(2))
    for number in range(4):
        other.put(key(number), features(number))
        assert not is_kept(reader, number)
        reader.refresh()
        assert is_kept(reader, number)
    assert is_kept(reader, 0)


@pytest.mark.slow
def test_two_processes_write_at_once_and_read_each_other(tmp_path: Path) -> None:
    go, folder = tmp_path / "go", tmp_path / "cache"
    both = [writer(folder, 0, 60, go=go), writer(folder, 30, 90, go=go)]
    lines = [ready(process) for process in both]
    go.touch()
    assert [len(list(each)) for each in lines] == [60, 60]
    assert [process.wait(60) for process in both] == [0, 0]
    store = DiskStore(folder, NAMESPACE)
    assert len(shards_of(folder)) == 2
    assert all(is_kept(store, number, tokens=500) for number in range(90))
    assert store.take_faults() == []


@pytest.mark.slow
def test_a_process_that_is_killed_from_outside_loses_nothing_that_it_finished(
    tmp_path: Path,
) -> None:
    go, folder = tmp_path / "go", tmp_path / "cache"
    process = writer(folder, 0, 1000, go=go, tokens=10_000)
    lines = ready(process)
    go.touch()
    finished = [int(next(lines)) for _ in range(5)]
    process.send_signal(signal.SIGKILL)
    finished += [int(line) for line in lines]
    assert process.wait(60) == -signal.SIGKILL
    assert len(finished) < 1000
    store = DiskStore(folder, NAMESPACE)
    assert all(is_kept(store, number, tokens=10_000) for number in finished)


@pytest.mark.slow
def test_an_entry_whose_writer_was_killed_in_its_middle_is_passed_over(tmp_path: Path) -> None:
    go, folder = tmp_path / "go", tmp_path / "cache"
    go.touch()
    process = writer(folder, 0, 9, 3, go=go)
    assert [int(line) for line in ready(process)] == [0, 1, 2]
    assert process.wait(60) == -signal.SIGKILL
    size = entry_bytes(500, WIDTH, 1, 2)
    cut = shards_of(folder)[0]
    assert cut.stat().st_size == 64 + 3 * size + size // 2
    before = cut.read_bytes()
    store = DiskStore(folder, NAMESPACE)
    assert [is_kept(store, number, 500) for number in range(4)] == [True, True, True, False]
    store.put(key(3), features(3, tokens=500))
    assert cut.read_bytes() == before
    assert all(is_kept(DiskStore(folder, NAMESPACE), number, 500) for number in range(4))


@pytest.mark.parametrize(
    "kept_bytes", [0, 1, 63, 64, 100, 64 + HEADER_BYTES, 64 + HEADER_BYTES + 9]
)
def test_a_file_cut_short_gives_what_is_whole(tmp_path: Path, kept_bytes: int) -> None:
    """Cut in its first entry, and the same way in its last."""
    path = filled(tmp_path)
    two = 2 * entry_bytes(5, WIDTH, 1, 2)
    for cut, whole in ((kept_bytes + two, 2), (kept_bytes, 0)):
        os.truncate(path, cut)
        store = DiskStore(tmp_path, NAMESPACE)
        expected = whole if kept_bytes >= 64 else max(whole - 1, 0)
        assert [is_kept(store, number) for number in range(3)] == [n < expected for n in range(3)]


def test_a_file_that_is_cut_while_it_is_read_is_not_trusted(tmp_path: Path) -> None:
    path = filled(tmp_path)
    store = DiskStore(tmp_path, NAMESPACE)
    assert is_kept(store, 2)
    os.truncate(path, path.stat().st_size - 128)
    assert [is_kept(store, number) for number in range(3)] == [True, True, False]
    assert "shorter" in store.take_faults()[0]


def test_no_damaged_byte_is_ever_handed_out(tmp_path: Path) -> None:
    """Each byte of the middle entry, turned over one after the other."""
    path, size = filled(tmp_path), entry_bytes(5, WIDTH, 1, 2)
    sound = path.read_bytes()
    unused = {*range(116, HEADER_BYTES)}
    for place in [*range(HEADER_BYTES), *range(HEADER_BYTES, size, 37), size - 1]:
        damaged = bytearray(sound)
        damaged[64 + size + place] ^= 0x10
        path.write_bytes(damaged)
        store = DiskStore(tmp_path, NAMESPACE)
        assert is_kept(store, 0)
        assert is_kept(store, 1) == (place in unused)
        if place not in unused:
            assert store.take_faults()


def test_a_damaged_entry_that_is_written_anew_is_found_again(tmp_path: Path) -> None:
    path, size = filled(tmp_path), entry_bytes(5, WIDTH, 1, 2)
    damaged = bytearray(path.read_bytes())
    damaged[64 + size + 200] ^= 1
    path.write_bytes(damaged)
    store, reader = DiskStore(tmp_path, NAMESPACE), DiskStore(tmp_path, NAMESPACE)
    assert not is_kept(store, 1)
    assert "hash differs" in store.take_faults()[0]
    store.put(key(1), features(1))
    reader.refresh()
    for each in (store, reader, DiskStore(tmp_path, NAMESPACE)):
        assert [is_kept(each, number) for number in range(3)] == [True] * 3


def test_entries_that_changed_places_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Both are sound, and neither is where its reader found it."""
    path, size = filled(tmp_path), entry_bytes(5, WIDTH, 1, 2)
    store = DiskStore(tmp_path, NAMESPACE)
    data = path.read_bytes()
    first, second = data[64 : 64 + size], data[64 + size : 64 + 2 * size]
    with path.open("r+b") as stream:
        stream.seek(64)
        stream.write(second + first)
    assert [is_kept(store, number) for number in range(3)] == [False, False, True]
    assert "another image's" in store.take_faults()[0]
    assert all(is_kept(DiskStore(tmp_path, NAMESPACE), number) for number in range(3))


def test_an_entry_under_way_is_neither_there_nor_damaged_until_it_is_whole(tmp_path: Path) -> None:
    path = filled(tmp_path)
    data = path.read_bytes()
    for cut in (len(data) - 100, len(data) - 300):
        os.truncate(path, cut)
        store = DiskStore(tmp_path, NAMESPACE)
        assert not is_kept(store, 2)
        assert store.take_faults() == []
        with path.open("ab") as stream:
            stream.write(data[cut:])
        store.refresh()
        assert is_kept(store, 2)


def test_a_shard_of_another_namespace_is_not_read(tmp_path: Path) -> None:
    path, other = filled(tmp_path), Namespace({"of": "others"})
    target = tmp_path / other.name
    target.mkdir()
    (target / path.name).write_bytes(path.read_bytes())
    store = DiskStore(tmp_path, other)
    assert store.get(key(0)) is None
    assert "no shard of this folder" in store.take_faults()[0]


def test_what_a_caller_does_to_a_tensor_never_reaches_the_file(tmp_path: Path) -> None:
    path = filled(tmp_path)
    before = path.read_bytes()
    found = DiskStore(tmp_path, NAMESPACE).get(key(0))
    assert found is not None
    found.tokens.zero_()
    assert path.read_bytes() == before
    assert is_kept(DiskStore(tmp_path, NAMESPACE), 0)


def test_a_forked_process_writes_a_shard_of_its_own(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, NAMESPACE)
    store.put(key(0), features(0))
    # A real fork, as a data loader's worker is; torch computes nothing in it.
    value = features(1)
    child = os.fork()
    if child == 0:
        store.put(key(1), value)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    store.put(key(2), features(2))
    assert len(shards_of(tmp_path)) == 2
    assert all(is_kept(DiskStore(tmp_path, NAMESPACE), number) for number in range(3))


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of so many bytes; skips where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_until_refused(store: DiskStore) -> int:
    """Entries that were written before the disk refused one."""
    for number in range(1000):
        try:
            store.put(key(number), features(number, tokens=500))
        except StageError as refusal:
            said = str(refusal)
            break
    assert "the disk is full" in said
    for way_out in ("vision_cache_folder=DIR", "vision_cache=memory", "vision_cache=off"):
        assert f"train.{way_out}" in said
    return number


def test_a_full_disk_leaves_what_was_written_and_takes_more_when_there_is_space(
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 1 << 20):
        (disk / "ballast").write_bytes(bytes(500_000))
        store = DiskStore(disk, NAMESPACE)
        written = fill_until_refused(store)
        assert written > 3
        for each in (store, DiskStore(disk, NAMESPACE)):
            kept = [is_kept(each, number, 500) for number in range(written + 1)]
            assert kept == [*[True] * written, False]
        (disk / "ballast").unlink()
        store.put(key(written), features(written, tokens=500))
        again = DiskStore(disk, NAMESPACE)
        assert all(is_kept(again, number, 500) for number in range(written + 1))


def test_a_limit_on_files_leaves_what_was_written(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, NAMESPACE)
    with files_limited_to(300_000):
        written = fill_until_refused(store)
    assert written == 4
    again = DiskStore(tmp_path, NAMESPACE)
    assert [is_kept(again, number, 500) for number in range(5)] == [*[True] * 4, False]
    assert shards_of(tmp_path)[0].stat().st_size == 64 + 4 * entry_bytes(500, WIDTH, 1, 2)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StageError, match="vision_cache_folder=DIR"):
        DiskStore(tmp_path / "file", NAMESPACE)


def test_levels_that_differ_in_type_are_refused(tmp_path: Path) -> None:
    mixed = ImageFeatures(torch.zeros(2, 4), (torch.zeros(2, 4, dtype=torch.bfloat16),))
    with pytest.raises(StageError, match="differ in type"):
        DiskStore(tmp_path, NAMESPACE).put(key(0), mixed)
