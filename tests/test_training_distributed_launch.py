"""Processes that one command starts: their settings, their ends, signals, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from vlmpipe.cli.launch import execute_in_processes
from vlmpipe.cli.request import Request
from vlmpipe.config.train import TrainConfig
from vlmpipe.errors import ConfigError, StageError
from vlmpipe.training.distributed import place
from vlmpipe.training.distributed.launching import launch_settings, run_workers
from vlmpipe.training.distributed.place import (
    Place,
    Sharing,
    asked_sharing,
    launch_restored,
    place_of,
    take_launch,
)
from vlmpipe.training.distributed.soundness import assert_distributed_type, refuse_unsound

ACCELERATE = Path(__file__).resolve().parents[1] / "configs" / "accelerate"
MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO3 = Sharing("deepspeed", zero_stage=3)


def worker(body: str) -> list[str]:
    """A process that knows its rank."""
    return [sys.executable, "-c", f"import os, sys, time\nrank = int(os.environ['RANK'])\n{body}"]


def test_a_process_knows_its_place_from_its_launcher() -> None:
    here = {**MEETING, "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert place_of(here) == Place(rank=3, world=8, local_rank=1)
    assert place_of({**here, "WORLD_SIZE": "1", "RANK": "0"}) is None
    assert place_of({"RANK": "3", "WORLD_SIZE": "8"}) is None
    assert place_of({}) is None


def test_what_the_launcher_set_is_in_the_environment_during_the_training_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {**MEETING, **FSDP2, "RANK": "0", "HOME": "/"})
    launch = take_launch(os.environ)
    assert os.environ == {"HOME": "/"}
    with launch_restored(launch):
        assert os.environ["RANK"] == "0"
        assert "ACCELERATE_USE_FSDP" not in os.environ  # its own FSDP is none on a CPU
    assert os.environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ddp", Sharing("ddp")), ("fsdp2", Sharing("fsdp2"))],
)
def test_accelerate_reads_the_files_as_they_are_meant(name: str, expected: Sharing) -> None:
    settings = launch_settings(ACCELERATE / f"{name}.yaml", 2)
    assert asked_sharing(settings) == expected


def test_fsdp2_can_keep_its_layers_gathered(tmp_path: Path) -> None:
    text = (ACCELERATE / "fsdp2.yaml").read_text()
    assert "fsdp_reshard_after_forward: true" in text
    file = tmp_path / "kept.yaml"
    file.write_text(text.replace("reshard_after_forward: true", "reshard_after_forward: false"))
    assert asked_sharing(launch_settings(file, 2)) == Sharing("fsdp2", reshard_after_forward=False)


@pytest.mark.parametrize("stage", [2, 3])
def test_the_deepspeed_files_name_their_stage(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it goes where DeepSpeed is not installed: accelerate's reading of the file."""
    monkeypatch.chdir(ACCELERATE.parents[1])
    monkeypatch.setattr("vlmpipe.training.distributed.place.require_deepspeed", lambda: None)
    monkeypatch.setattr("vlmpipe.training.distributed.launching.require_deepspeed", lambda: None)
    settings = launch_settings(ACCELERATE / f"zero{stage}.yaml", 2)
    assert asked_sharing(settings) == Sharing("deepspeed", zero_stage=stage)


def test_where_deepspeed_is_missing_it_is_said_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(place, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="DeepSpeed, which is not installed") as caught:
        launch_settings(ACCELERATE / "zero2.yaml", 2)
    assert any("pip install deepspeed" in remedy for remedy in caught.value.remedies)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP 1, and only 2"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config"),
    ],
)
def test_other_ways_to_share_a_model_are_refused(
    environment: Mapping[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        asked_sharing(environment)


def test_a_file_that_accelerate_cannot_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("distributed_type: TWO_TIN_CANS\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        launch_settings(file, 2)


def test_a_file_for_several_machines_is_for_accelerate_launch(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    text = (ACCELERATE / "ddp.yaml").read_text()
    file.write_text(text.replace("num_machines: 1", "num_machines: 4"))
    with pytest.raises(ConfigError, match="4 machines") as caught:
        launch_settings(file, 8)
    assert any("accelerate launch" in remedy for remedy in caught.value.remedies)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"3 processes .* 2 GPUs"):
        launch_settings(None, 3)


def test_a_configuration_without_a_count_of_processes_is_refused() -> None:
    request = Request(files=(), overrides=())
    with pytest.raises(ConfigError, match="how many is not said"):
        execute_in_processes(request, None, ACCELERATE / "ddp.yaml")


@pytest.mark.parametrize("sharing", [Sharing("fsdp2"), ZERO3])
@pytest.mark.parametrize(
    ("settings", "way_out"),
    [
        ({"method": "qlora"}, "train.method=lora"),
        ({"method": "lora", "unfreeze": ["merger"]}, "train.unfreeze=[]"),
        ({"method": "lora", "optimizer": "adamw_8bit"}, "train.optimizer=adamw_torch"),
    ],
)
def test_what_would_train_wrongly_without_a_word_is_refused(
    sharing: Sharing, settings: dict[str, object], way_out: str
) -> None:
    train = TrainConfig.model_validate(settings)
    with pytest.raises(StageError) as caught:
        refuse_unsound(train, sharing)
    assert any(way_out in remedy for remedy in caught.value.remedies)
    assert any("configs/accelerate/ddp.yaml" in remedy for remedy in caught.value.remedies)
    refuse_unsound(train, Sharing("ddp"))
    refuse_unsound(train, Sharing("deepspeed", zero_stage=2))
    refuse_unsound(TrainConfig.model_validate({"method": "lora"}), sharing)


def test_a_model_that_nothing_syncs_is_no_shared_one() -> None:
    import torch

    assert_distributed_type(None, torch.nn.Linear(2, 2))
    with pytest.raises(StageError, match=r"asked for DDP.*in force is none"):
        assert_distributed_type("ddp", torch.nn.Linear(2, 2))


def test_every_process_has_its_rank_and_a_place_to_meet(tmp_path: Path) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT ACCELERATE_USE_FSDP"
    body = (
        "import json, pathlib\n"
        f"pathlib.Path({str(tmp_path)!r}, f'seen-{{rank}}').write_text(json.dumps("
        f"[os.environ.get(name) for name in {names.split()!r}]))"
    )
    assert run_workers(worker(body), 3, FSDP2, tmp_path) == 0
    seen = [json.loads((tmp_path / f"seen-{rank}").read_text()) for rank in range(3)]
    assert [row[:3] for row in seen] == [["0", "0", "3"], ["1", "1", "3"], ["2", "2", "3"]]
    assert len({(row[3], row[4]) for row in seen}) == 1
    assert {row[5] for row in seen} == {"true"}


def test_process_0_s_exit_code_is_the_command_s_when_it_has_spoken(tmp_path: Path) -> None:
    assert run_workers(worker("sys.exit(7 if rank == 0 else 5)"), 2, {}, tmp_path) == 7


@pytest.mark.parametrize(
    ("body", "told", "code"),
    [
        ("if rank: print('the image is black'); sys.exit(4)", "process 1 of 2 ended with", 4),
        ("if rank: os.kill(os.getpid(), 9)", "process 1 of 2 was killed by SIGKILL", 5),
        ("if not rank: os.kill(os.getpid(), 9)", "process 0 of 2 was killed by SIGKILL", 5),
    ],
)
def test_one_process_s_end_ends_the_others_and_is_one_error(
    body: str, told: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others sit in a collective, as NCCL's do, and notice nothing."""
    monkeypatch.setattr("vlmpipe.training.distributed.launching.GRACE_S", 0.5)
    with pytest.raises(StageError, match=told) as caught:
        run_workers(worker(f"{body}\ntime.sleep(300)"), 2, {}, tmp_path)
    assert caught.value.exit_code == code
    assert list(caught.value.problems) == (["the image is black"] if code == 4 else [])


def test_an_interrupt_is_handed_on_and_the_processes_end_in_their_own_time(tmp_path: Path) -> None:
    body = (
        "import pathlib, signal\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(time.sleep(1) or 130))\n"
        f"pathlib.Path({str(tmp_path)!r}, f'ready-{{rank}}').touch()\n"
        "time.sleep(300)"
    )

    def interrupt() -> None:
        while len(list(tmp_path.glob("ready-*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert run_workers(worker(body), 2, {}, tmp_path) == 130


def test_the_processes_do_not_outlive_a_launcher_that_is_killed(tmp_path: Path) -> None:
    """They ask the kernel for it as they meet."""
    body = (
        "from vlmpipe.system.parenthood import die_with_parent\n"
        "die_with_parent()\n"
        "import pathlib\n"
        f"pathlib.Path({str(tmp_path)!r}, f'pid-{{rank}}').write_text(str(os.getpid()))\n"
        "time.sleep(300)"
    )
    launcher = (
        "from pathlib import Path\n"
        "from vlmpipe.training.distributed.launching import run_workers\n"
        f"run_workers({worker(body)!r}, 2, {{}}, Path({str(tmp_path)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", launcher]) as process:
        while sum(p.stat().st_size > 0 for p in tmp_path.glob("pid-*")) < 2:
            time.sleep(0.05)
        process.kill()
    pids = [int(file.read_text()) for file in tmp_path.glob("pid-*")]
    while any(_runs(pid) for pid in pids):  # the test's own time limit ends it
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return "State:\tZ" not in status
