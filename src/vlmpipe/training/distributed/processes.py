"""The processes that train together: who is first, and what they tell each other.

What they say goes over a group of its own, on the CPU and with hours of patience. The collectives
of the training stay with torch, DDP and FSDP: those must fail within minutes, while a wait for
process 0 may last as long as a cache takes to fill. On the CPU a process that dies is noticed at
once, and objects need no room on the accelerator.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

from vlmpipe.errors import StageError
from vlmpipe.system.parenthood import die_with_parent
from vlmpipe.training.distributed.place import Place, Sharing, asked_sharing

T = TypeVar("T")

TRAINING_PATIENCE = timedelta(minutes=30)
"""Of the collectives of the training, and of the first meeting."""

WORD_PATIENCE = timedelta(days=7)
"""Of a word from process 0: it may download and prepare data, or fill a cache, meanwhile."""


class Processes:
    """Several processes that train together; all of them must make the same calls."""

    def __init__(self, place: Place, sharing: Sharing, group: Any) -> None:
        self.rank = place.rank
        self.world = place.world
        self.local_rank = place.local_rank
        self.sharing = sharing
        self._group = group

    @property
    def is_first(self) -> bool:
        """Whether this process alone prints and writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        import torch.distributed as dist

        dist.barrier(group=self._group)

    def broadcast(self, value: T) -> T:
        """Process 0's value, in all of them."""
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank, in all of them."""
        import torch.distributed as dist

        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is so in any of them: one that was told to stop stops all."""
        import torch
        import torch.distributed as dist

        count = torch.tensor([int(flag)])
        dist.all_reduce(count, group=self._group)
        return bool(count.item())

    def leave(self) -> None:
        """Part in good order; what runs later in this process runs alone."""
        import torch.distributed as dist

        dist.destroy_process_group()


class Alone(Processes):
    """One process: nobody to wait for."""

    def __init__(self) -> None:
        super().__init__(Place(0, 1, 0), Sharing("ddp"), None)

    def barrier(self) -> None:
        """Nothing to wait for."""

    def broadcast(self, value: T) -> T:
        """The value."""
        return value

    def gather(self, value: T) -> list[T]:
        """The value alone."""
        return [value]

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def leave(self) -> None:
        """Nobody to part from."""


_current: Processes = Alone()


def current_processes() -> Processes:
    """Those that this process trains with now."""
    return _current


def join(place: Place) -> Processes:
    """Meet the other processes; returns when all are there.

    Raises:
        ConfigError: in all of them alike, when the model cannot be shared as asked.
        StageError: when some have not come within `TRAINING_PATIENCE`.
    """
    import torch
    import torch.distributed as dist

    sharing = asked_sharing()
    die_with_parent()
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=TRAINING_PATIENCE)
        group = dist.new_group(backend="gloo", timeout=WORD_PATIENCE)
    except (RuntimeError, ValueError) as exc:  # torch's DistErrors are RuntimeErrors
        raise StageError(
            f"process {place.rank} of {place.world} did not meet the others:"
            f" {str(exc).splitlines()[0]}",
            "start every process, on every machine, within half an hour",
            "let MASTER_ADDR:MASTER_PORT of process 0 be reachable from all machines",
        ) from exc
    return _become(Processes(place, sharing, group))


def part() -> None:
    """Leave the others, if there are any."""
    _current.leave()
    _become(Alone())


def _become(processes: Processes) -> Processes:
    global _current
    _current = processes
    return processes
