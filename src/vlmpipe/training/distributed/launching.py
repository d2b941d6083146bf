"""Start the processes of a training on this machine, and end them together.

What `accelerate launch` does, with its own reading of its own file, and without torch's elastic
agent: that one gives a process 30 seconds to save when it is interrupted, and tells of a failure
in a stack trace of its own.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from vlmpipe.errors import ConfigError, StageError
from vlmpipe.system.parenthood import exit_cause
from vlmpipe.system.process import last_lines, stop_group
from vlmpipe.training.distributed.failures import NOTES_FOLDER, OUT_OF_MEMORY, note_of
from vlmpipe.training.distributed.place import require_deepspeed

WATCH_EVERY_S = 0.1
GRACE_S = 20.0
"""How long the others may take to notice that one process failed, and to say so themselves."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Worker:
    """One of the processes."""

    rank: int
    process: subprocess.Popen[bytes]
    output: Path | None
    """What it prints; process 0 prints where the launcher does."""

    noted: bool = False

    @property
    def code(self) -> int | None:
        """Exit code, the negative number of a signal, None while it runs."""
        return self.process.poll()


def launch_settings(file: Path | None, processes: int) -> dict[str, str]:
    """What `accelerate launch --config_file FILE --num_processes N` sets in the environment.

    Raises:
        ConfigError: when the file cannot be used or is for several machines, or when there are
            GPUs but not one for each process.
    """
    _refuse_more_than_gpus(processes)
    if file is None:
        return {}
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    words = ["--config_file", str(file), "--num_processes", str(processes), "-m", "vlmpipe"]
    before = dict(os.environ)
    try:
        arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
        if (arguments.num_machines or 1) > 1:
            raise _several_machines(file, arguments)
        arguments.main_process_port = 0
        if arguments.use_deepspeed:
            settings = _deepspeed_settings(arguments)
        else:
            settings = prepare_multi_gpu_env(arguments)
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise ConfigError(
            f"accelerate cannot read its configuration {file}: {exc}",
            "take one of configs/accelerate, or write one with `accelerate config`",
        ) from exc
    return {name: text for name, text in settings.items() if before.get(name) != text}


def run_workers(
    command: Sequence[str], processes: int, settings: Mapping[str, str], notes: Path
) -> int:
    """Run the command in so many processes and return the exit code of process 0.

    An interrupt is handed on to all of them, and they end in their own time; when one fails the
    others are ended too. `notes` keeps what each process but the first printed.

    Raises:
        StageError: for a process that failed, where process 0 could not say so itself.
    """
    with _signals_handed_on() as workers:
        common = {**os.environ, **settings, **_meeting_place(processes)}
        common[NOTES_FOLDER] = str(notes)
        for rank in range(processes):
            workers.append(_start(command, rank, common, notes))
        try:
            culprit = _watch(workers, notes)
        finally:
            for worker in workers:
                stop_group(worker.process)
    if culprit is None or (workers[0].code or 0) > 0:  # process 0 has said what there is to say
        return workers[0].code or 0
    raise _unsaid(culprit, processes)


def _start(command: Sequence[str], rank: int, common: Mapping[str, str], notes: Path) -> Worker:
    output = notes / f"process-{rank}.log" if rank else None
    environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    stream: Any = output.open("wb") if output else None
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # the terminal's Ctrl-C reaches the launcher alone
        )
    finally:
        if stream is not None:
            stream.close()
    return Worker(rank, process, output)


def _meeting_place(processes: int) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }


def _watch(workers: Sequence[Worker], notes: Path) -> Worker | None:
    """Wait for all; after the first failure, which is returned, for `GRACE_S` at most."""
    end, culprit = float("inf"), None
    while time.monotonic() < end:
        running = any(worker.code is None for worker in workers)
        # One that was killed comes before those that fail because it is gone.
        for worker in sorted((w for w in workers if w.code), key=lambda w: w.code or 0):
            _note(worker, notes)
            culprit = culprit or worker
            end = min(end, time.monotonic() + GRACE_S)
        if not running:
            break
        time.sleep(WATCH_EVERY_S)
    return culprit


def _note(worker: Worker, notes: Path) -> None:
    """Let process 0 read what another one ended of."""
    if worker.noted or worker.output is None:
        return
    worker.noted = True
    aside = note_of(notes, worker.rank).with_suffix(".part")
    aside.write_text("\n".join([_end_of(worker), *_last_words(worker)]) + "\n", encoding="utf-8")
    aside.rename(note_of(notes, worker.rank))


def _end_of(worker: Worker) -> str:
    cause = exit_cause(worker.code)
    return f"ended with {cause}" if (worker.code or 0) > 0 else f"was killed by {cause}"


def _last_words(worker: Worker) -> list[str]:
    return last_lines(worker.output) if worker.output else []


def _unsaid(culprit: Worker, processes: int) -> StageError:
    error = StageError(
        f"process {culprit.rank} of {processes} {_end_of(culprit)}",
        OUT_OF_MEMORY,
        "the same command goes on from the newest checkpoint",
        problems=_last_words(culprit),
    )
    error.exit_code = max(culprit.code or 0, 0) or StageError.exit_code
    return error


@contextmanager
def _signals_handed_on() -> Iterator[list[Worker]]:
    workers: list[Worker] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        for worker in workers:
            if worker.code is None:
                worker.process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in SIGNALS}
    try:
        yield workers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_more_than_gpus(processes: int) -> None:
    import torch

    count = torch.cuda.device_count()
    if 0 < count < processes:
        raise ConfigError(
            f"{processes} processes are asked for, and this machine has {count} GPUs",
            f"one to a GPU: --num-processes {count}",
            "or all of them on the CPU: hide the GPUs with CUDA_VISIBLE_DEVICES=''",
        )


def _deepspeed_settings(arguments: Any) -> dict[str, str]:
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    require_deepspeed()
    arguments.deepspeed_fields_from_accelerate_config = ""
    settings: dict[str, str] = prepare_deepspeed_cmd_env(arguments)[1]
    return settings


def _several_machines(file: Path, arguments: Any) -> ConfigError:
    return ConfigError(
        f"{file} is for {arguments.num_machines} machines, and --num-processes starts one machine's"
        " processes alone",
        "run on every machine: accelerate launch --config_file FILE --machine_rank K"
        " --main_process_ip ADDRESS -m vlmpipe train ...",
    )
