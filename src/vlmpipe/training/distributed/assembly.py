"""How processes that were started by one command come together for a training, and part.

Process 0 runs the pipeline as ever: locks, fingerprints, publication. The others wait for its word,
which always comes: the order to train with it, or that there is nothing to train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vlmpipe.config import Config
from vlmpipe.errors import StageError
from vlmpipe.pipeline import StageContext
from vlmpipe.training.distributed.failures import losses_told
from vlmpipe.training.distributed.place import Place, launch_restored, take_launch
from vlmpipe.training.distributed.processes import current_processes, join, part
from vlmpipe.training.distributed.soundness import refuse_unsound

_waiting: list[Mapping[str, str]] = []
"""In process 0, the launcher's settings, while the others wait for its word."""


@dataclass(frozen=True)
class Order:
    """What process 0 tells the others when a training begins."""

    config: Config
    folder: Path
    upstream: Mapping[str, Path]
    run_folder: Path
    log_path: Path


@contextmanager
def leading(place: Place) -> Iterator[None]:
    """Process 0: whatever happens in here, the others hear of it, and do not wait for ever."""
    processes = join(place)
    _waiting.append(take_launch())
    try:
        yield
    finally:
        if _waiting:  # cached, refused, failed or interrupted: nothing was trained
            _waiting.clear()
            with suppress(RuntimeError):  # they may be gone themselves
                processes.broadcast(None)
                part()


def follow(place: Place, work: Callable[[Order], None]) -> None:
    """Any other process: wait for process 0's word, and do the work if there is some.

    Raises:
        PeerLostError: when process 0 is gone; it, or the launcher, says why.
    """
    processes, launch = join(place), take_launch()
    with launch_restored(launch), losses_told(processes):
        order: Order | None = processes.broadcast(None)
        if order is not None:
            work(order)
            processes.barrier()
    part()


@contextmanager
def together(context: StageContext) -> Iterator[None]:
    """Around the training, in every process: the others come in, and all leave together.

    Does nothing where the process is alone.

    Raises:
        StageError: when the model cannot be shared as asked.
    """
    if not current_processes().is_first:
        _refuse_invisible(context)
        yield
    elif _waiting:
        refuse_unsound(context.config.train, current_processes().sharing)
        with _called_in(context):
            yield
    else:
        yield


@contextmanager
def _called_in(context: StageContext) -> Iterator[None]:
    processes, launch = current_processes(), _waiting.pop()
    order = Order(
        config=context.config,
        folder=context.folder,
        upstream=dict(context.upstream),
        run_folder=context.run_folder,
        log_path=context.log_path,
    )
    with launch_restored(launch), losses_told(processes):
        processes.broadcast(order)
        yield
        processes.barrier()
        part()


def _refuse_invisible(context: StageContext) -> None:
    """Raises StageError where this machine does not see the files of process 0's."""
    missing = [str(p) for p in (context.folder, *context.upstream.values()) if not p.is_dir()]
    if missing:
        raise StageError(
            f"process {current_processes().rank} does not see the folders of process 0",
            "let all machines share the file system that holds the run: run.outputs_dir=DIR",
            "and give its path from the root, alike on every machine",
            problems=missing,
        )
