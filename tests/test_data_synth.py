"""`vlmpipe data synth`: the same bytes from any number of processes, whole after any death."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock
from PIL import Image

from vlmpipe.cli import app
from vlmpipe.config import parse_config
from vlmpipe.data.prepare import prepare_data
from vlmpipe.data.store import load_split
from vlmpipe.data.synthetic import folder as folder_room
from vlmpipe.data.synthetic import synth
from vlmpipe.data.synthetic.recipe import recipe_of
from vlmpipe.errors import ConfigError, StageError
from vlmpipe.pipeline.events import SilentReporter

EASY = ["--task", "table", "--seed", "7", "--difficulty", "0:0.1"]


def call(*words: object) -> int:
    return app.run(["data", *map(str, words)])


def told_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock, by its name in the folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def images(folder: Path) -> list[Path]:
    return sorted((folder / "images").glob("*.png"))


def make(folder: Path, n: int = 12, scan: float = 0.2) -> dict[str, bytes]:
    """A finished folder of easy tables, made in this process."""
    recipe = recipe_of("table", n, 7, "0:0.1", "en,ko", scan)
    synth.synthesise(recipe, folder, 1, SilentReporter())
    return contents(folder)


def test_samples_are_the_same_bytes_whatever_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*EASY, "--n", 12, "--scan", 0.2, "--no-sheet", "--json"]
    assert call("synth", *words, "--out", tmp_path / "two", "--workers", 2) == 0
    assert told_json(capsys)["new"] == 12
    assert contents(tmp_path / "two") == make(tmp_path / "one")


def test_what_was_written_can_be_trained_on(tmp_path: Path) -> None:
    make(tmp_path / "set")
    source = {"path": str(tmp_path / "set" / "samples.jsonl")}
    config = parse_config({"data": {"sources": [source]}})
    summary = prepare_data(config, tmp_path / "data", SilentReporter())
    assert summary.train.samples + summary.heldout.samples == 12
    assert summary.skipped == 0
    sample = load_split(tmp_path / "data", "train")[0]
    picture, prompt = sample.messages[0].parts
    assert isinstance(picture, Image.Image)
    assert isinstance(prompt, str)
    assert (sample.task, sample.id[:8]) == ("table", "table-7-")


def test_the_end_says_what_was_written_and_how_to_train_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert call("synth", *EASY, "--n", 5, "--out", out, "--workers", 1) == 0
    told = capsys.readouterr().out
    for part in (f"5 in {out} (5 written now)", "difficulty: 0.0", "contact-sheet.png"):
        assert part in told
    assert f'\'data.sources=[{{"path": "{out}/samples.jsonl"}}]\'' in told
    assert "data.task=table" in told
    with Image.open(out / "contact-sheet.png") as sheet:
        assert sheet.width > 1000
    before = contents(out)
    assert call("synth", *EASY, "--n", 5, "--out", out, "--workers", 1) == 0
    assert "all there already" in capsys.readouterr().out
    assert contents(out) == before


def test_questions_without_pictures_are_written_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "qa"
    words = ["--task", "qa", "--n", 60, "--out", out, "--workers", 1, "--json"]
    assert call("synth", *words) == 0
    told = told_json(capsys)
    assert (told["samples"], told["images"], told["sheet"]) == (60, 0, None)
    assert told["different"] < 60
    assert sorted(path.name for path in out.iterdir()) == [".lock", "recipe.json", "samples.jsonl"]
    assert call("sheet", out) == 2
    assert "no sample" in capsys.readouterr().err


def stopped(monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException) -> None:
    """Sample number `after` ends the program instead of being written."""
    written = synth.write_sample

    def write_sample(recipe: Any, folder: Path, index: int) -> bytes:
        if index == after:
            raise error
        return written(recipe, folder, index)

    monkeypatch.setattr(synth, "write_sample", write_sample)


def test_an_interrupt_names_the_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    words = [*EASY, "--n", "12", "--scan", "0.2", "--out", str(out), "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["vlmpipe", "data", "synth", *words])
    with monkeypatch.context() as patched:
        stopped(patched, 5, KeyboardInterrupt())
        assert call("synth", *words) == 130
    assert f"vlmpipe data synth {' '.join(words)}" in capsys.readouterr().err
    assert len(images(out)) == 5
    assert not (out / "samples.jsonl").exists()
    assert call("synth", *words, "--no-sheet") == 0
    assert "5 of 12 samples are there already" in capsys.readouterr().out
    assert contents(out) == make(tmp_path / "fresh")


def test_a_killed_run_leaves_whole_images_and_no_workers_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "set"
    words = [*EASY, "--n", "300", "--out", str(out), "--workers", "2", "--no-sheet"]
    argv = [sys.executable, "-m", "vlmpipe", "data", "synth", *words]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(images(out)) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, surviving = psutil.wait_procs(workers, timeout=30)
    for worker in surviving:
        worker.kill()
    assert not surviving
    assert not (out / "samples.jsonl").exists()
    for path in images(out):
        with Image.open(path) as image:
            image.load()
    make_again = recipe_of("table", 300, 7, "0:0.1", "en,ko", 0.0)
    facts = synth.synthesise(make_again, out, 1, SilentReporter())
    assert facts.samples == facts.images == 300
    assert contents(out) == make(tmp_path / "fresh", n=300, scan=0.0)


def test_a_torn_record_is_made_again(tmp_path: Path) -> None:
    whole = make(tmp_path / "fresh")
    out = tmp_path / "torn"
    make(out)
    lines = (out / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (out / "samples.jsonl").unlink()
    (out / ".samples.partial.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:40])
    images(out)[6].unlink()
    (out / "images" / ".000009.png.tmp77").write_bytes(b"half")
    assert make(out) == whole


def test_a_full_disk_leaves_no_half_image_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    synced = os.fsync
    left = iter(range(6))

    def fsync(handle: int) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(StageError, match="no space left") as caught:
            make(out)
    assert "the same command" in caught.value.remedies[0]
    # One write is the recipe's; the sixth image never got its name.
    assert [path.name for path in images(out)] == [f"{index:06d}.png" for index in range(5)]
    assert not list((out / "images").glob(".*"))
    assert make(out) == make(tmp_path / "fresh")


def test_a_folder_of_other_samples_is_refused_naming_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = make(tmp_path / "set")
    words = ["--task", "table", "--seed", 8, "--difficulty", "0:0.3", "--n", 12, "--scan", 0.2]
    assert call("synth", *words, "--out", tmp_path / "set", "--json") == 2
    error = told_json(capsys)["error"]
    assert error["problems"] == [
        "--seed was 7, is 8 now",
        "--difficulty was 0.0:0.1, is 0.0:0.3 now",
    ]
    assert any("--out" in remedy for remedy in error["remedies"])
    assert contents(tmp_path / "set") == before


def test_samples_of_another_version_are_not_mixed_with_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "set")
    monkeypatch.setattr("vlmpipe.data.synthetic.recipe.__version__", "99.0")
    with pytest.raises(ConfigError) as caught:
        make(tmp_path / "set")
    assert "99.0" in caught.value.problems[0]


def test_a_finished_folder_that_was_changed_is_not_called_complete(tmp_path: Path) -> None:
    whole = make(tmp_path / "set")
    images(tmp_path / "set")[3].unlink()
    with pytest.raises(ConfigError) as caught:
        make(tmp_path / "set")
    assert caught.value.problems == ("line 4: images/000003.png is missing",)
    assert "rm " in caught.value.remedies[0]
    (tmp_path / "set" / "samples.jsonl").unlink()
    assert make(tmp_path / "set") == whole


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--task", "tabel"], ["no task 'tabel'", "did you mean 'table'", "--task table|"]),
        (["--n", "0"], ["--n 0 is not from 1"]),
        (["--n", "-3"], ["--n -3 is not from 1"]),
        (["--n", "2000000"], ["to 1,000,000"]),
        (["--difficulty", "0.8:0.2"], ["--difficulty 0.8:0.2 is not LOW:HIGH"]),
        (["--difficulty", "hard"], ["--difficulty hard is not LOW:HIGH"]),
        (["--difficulty", "nan:1"], ["--difficulty nan:1 is not LOW:HIGH"]),
        (["--difficulty", "0:1.5"], ["--difficulty 0:1.5 is not LOW:HIGH"]),
        (["--languages", "en,fr"], ["--languages en,fr", "'fr'"]),
        (["--languages", ""], ["--languages", "''"]),
        (["--scan", "1.5"], ["--scan 1.5 is not from 0 to 1"]),
        (["--scan", "nan"], ["--scan nan is not from 0 to 1"]),
        (["--workers", "0"], ["--workers"]),
        (["--task", "x", "--n", "0", "--scan", "9"], ["no task 'x'", "--n 0", "--scan 9.0"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_values_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], parts: list[str]
) -> None:
    given = {"--task": "table", "--n": "5", "--out": str(tmp_path / "set")}
    given |= dict(zip(words[::2], words[1::2], strict=True))
    assert call("synth", *(word for pair in given.items() for word in pair)) == 2
    told = capsys.readouterr().err
    for part in parts:
        assert part in told
    assert not (tmp_path / "set").exists()


def foreign(out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("mine")


def foreign_recipe(out: Path) -> None:
    out.mkdir()
    (out / "recipe.json").write_text('{"flour": 500}')


def torn_recipe(out: Path) -> None:
    out.mkdir()
    (out / "recipe.json").write_text('{"task": "ta')


def a_file(out: Path) -> None:
    out.write_text("mine")


def under_a_file(out: Path) -> None:
    a_file(out.parent / "file")
    out.symlink_to(out.parent / "file" / "deeper")


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (foreign, "not empty"),
        (foreign_recipe, "recipe.json is none that"),
        (torn_recipe, "recipe.json is none that"),
        (a_file, "is a file, not a folder"),
        (under_a_file, "cannot write to"),
    ],
)
def test_a_place_that_is_not_ours_is_left_alone(
    tmp_path: Path, spoil: Any, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    spoil(out)
    before = contents(tmp_path)
    assert call("synth", *EASY, "--n", 3, "--out", out, "--workers", 1) == 2
    told = capsys.readouterr().err
    assert part in told
    assert "--out DIR" in told
    assert contents(tmp_path) == before


def test_a_folder_that_may_not_be_written_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mkdir(path: Path, *args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(ConfigError, match="Permission denied") as caught:
        make(tmp_path / "set")
    assert "--out DIR" in caught.value.remedies[0]


def test_two_processes_never_fill_one_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    out.mkdir()
    with FileLock(out / folder_room.LOCK):
        assert call("synth", *EASY, "--n", 3, "--out", out, "--workers", 1) == 8
    assert "another process" in capsys.readouterr().err


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that end as if the system had killed them."""
    monkeypatch.setattr("vlmpipe.data.synthetic.pool._prepare", os.abort)


@pytest.mark.usefixtures("dying")
def test_a_worker_that_is_killed_ends_the_run_with_a_way_out(tmp_path: Path) -> None:
    recipe = recipe_of("table", 4, 7, "0:0.1", "en", 0.0)
    with pytest.raises(StageError, match="worker process was killed") as caught:
        synth.synthesise(recipe, tmp_path / "set", 2, SilentReporter())
    assert "--workers 1" in caught.value.remedies[0]


def test_a_sheet_can_be_drawn_of_anybodys_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "set", n=30)
    assert call("sheet", tmp_path / "set", "--json") == 0
    sheet = Path(told_json(capsys)["sheet"])
    first = sheet.read_bytes()
    assert call("sheet", tmp_path / "set") == 0
    assert sheet.read_bytes() == first
    (tmp_path / "set" / "images" / "000000.png").write_bytes(b"no image")
    assert call("sheet", tmp_path / "set") == 5
    assert "samples.jsonl:1 cannot be shown" in capsys.readouterr().err
    assert call("sheet", tmp_path / "nowhere") == 2
    assert "vlmpipe data synth" in capsys.readouterr().err
