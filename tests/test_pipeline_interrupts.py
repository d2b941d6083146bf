"""Kills, locks, full disks: what was published stays, the next run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_fakes import END, MAKE, STAGES, USE, Run, content
from vlmpipe.errors import LockError, StageError
from vlmpipe.pipeline import Outcome, StageContext

HERE = Path(__file__).resolve().parent
WAITS = """
import sys, time
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from pathlib import Path
from pipeline_fakes import END, MAKE, USE, Run

def wait(context):
    (context.folder / "half.txt").write_text("half")
    print("waiting", flush=True)
    time.sleep(600)

Run(Path(sys.argv[2]), (MAKE, replace(USE, run=wait), END))(command="vlmpipe run-all -c slow.yaml")
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of the stage `use`."""
    argv = [sys.executable, "-c", WAITS, str(HERE), str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        yield process
        process.kill()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_second_run_is_told_who_holds_the_lock(
    tmp_path: Path, waiting: subprocess.Popen[str]
) -> None:
    before = content(tmp_path)
    with pytest.raises(LockError) as caught:
        Run(tmp_path)()
    assert caught.value.exit_code == 8
    assert f"process {waiting.pid} on" in caught.value.message
    assert "`vlmpipe run-all -c slow.yaml`" in caught.value.message
    assert any("run.name=NAME" in remedy for remedy in caught.value.remedies)
    assert content(tmp_path) == before


def test_status_needs_no_lock(tmp_path: Path, waiting: subprocess.Popen[str]) -> None:
    assert waiting.poll() is None
    assert Run(tmp_path).states()["make"] == ("current",)


def test_a_killed_run_frees_its_lock_and_only_its_stage_is_done_again(
    tmp_path: Path, waiting: subprocess.Popen[str]
) -> None:
    run = Run(tmp_path)
    published = content(run.folder("make"))
    kill(waiting)
    assert (run.folder("use") / "v001.partial" / "half.txt").is_file()
    assert run.states()["use"] == ("missing", "never published")
    assert run.done() == {"make": "v001*", "use": "v001", "end": "v001"}
    assert content(run.folder("make")) == published
    assert set(content(run.folder("use") / "v001")) == {"out.txt", "manifest.json"}
    assert not list(tmp_path.rglob("*.partial"))


def test_a_lock_is_freed_after_success_and_after_failure(tmp_path: Path) -> None:
    def fail(context: StageContext) -> Outcome:
        raise StageError("no")

    for _ in range(2):
        with pytest.raises(StageError):
            Run(tmp_path, (replace(MAKE, run=fail),))()
    Run(tmp_path)()
    assert set(Run(tmp_path).done().values()) == {"v001*"}
    assert not (tmp_path / "run" / ".lock.holder.json").exists()


def test_a_holder_that_cannot_be_read_is_still_a_held_lock(
    tmp_path: Path, waiting: subprocess.Popen[str]
) -> None:
    (tmp_path / "run" / ".lock.holder.json").write_text(json.dumps(["?"]))
    with pytest.raises(LockError, match="another process holds its lock"):
        Run(tmp_path)()


def test_an_interrupt_is_noted_in_the_log_and_leaves_the_work(tmp_path: Path) -> None:
    def interrupted(context: StageContext) -> Outcome:
        (context.folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    run = Run(tmp_path, (MAKE, replace(USE, run=interrupted, resumable=True)))
    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    log = tmp_path / "run" / "logs" / "1_use.log"
    assert caught.value.__notes__ == [f"log: {log}"]
    assert "KeyboardInterrupt" in log.read_text()
    assert run.states()["use"] == ("missing", "never published")
    resumed = Run(tmp_path)
    resumed.stages = (MAKE, replace(USE, resumable=True), END)
    assert resumed.done()["use"] == "v001"
    assert (resumed.folder("use") / "v001" / "half.txt").is_file()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("no mount program here")
    options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run([mount, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small tmpfs here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(context: StageContext) -> Outcome:
    """More than the disk holds."""
    context.log.info("filling the disk")
    with (context.folder / "large.bin").open("wb") as stream:
        for _ in range(64):
            stream.write(bytes(1 << 16))
    return Outcome()


def test_a_full_disk_is_told_and_latest_stays(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Run(small_disk)()
    filling = Run(small_disk, (MAKE, replace(USE, run=fill), END))
    before = {stage.name: os.readlink(filling.folder(stage.name) / "latest") for stage in STAGES}
    with pytest.raises(StageError, match="no space left on the disk") as caught:
        filling(force=frozenset({"use"}), command="vlmpipe run-all")
    error = caught.value
    assert error.exit_code == 5
    assert error.stage == "use"
    assert "0 MiB free of 1 MiB" in error.message
    assert "free some space" in error.remedies
    assert any("run.outputs_dir=DIR" in remedy for remedy in error.remedies)
    assert error.remedies[-1] == "then go on with: vlmpipe run-all"
    after = {stage.name: os.readlink(filling.folder(stage.name) / "latest") for stage in STAGES}
    assert after == before
    assert "Traceback" not in capfd.readouterr().err
    for each in small_disk.rglob("*.partial"):
        shutil.rmtree(each)
    assert set(Run(small_disk).done().values()) == {"v001*"}


def test_a_disk_that_is_full_from_the_start_is_told(small_disk: Path) -> None:
    Run(small_disk)()
    with (small_disk / "filler").open("wb") as stream:
        try:
            stream.write(bytes(1 << 21))
        except OSError:
            assert stream.tell() > 0
    with pytest.raises(StageError, match="no space left on the disk"):
        Run(small_disk)(force=frozenset({"use"}))
    assert Run(small_disk).states()["use"] == ("current",)


@pytest.mark.skipif(os.geteuid() == 0, reason="the tests above mount as root")
def test_full_disks_as_root_of_an_own_namespace() -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], check=False).returncode:
        pytest.skip("neither root nor `unshare -rm` is to be had here")
    tests = [sys.executable, "-m", "pytest", "-q", "-k", "full and not namespace", __file__]
    done = subprocess.run([unshare, "-rm", *tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
