"""One of the processes of a whole training: `python together_worker.py MODEL FOLDER SETTINGS`.

Process 0 takes the part of the pipeline's runner, the others follow it, as under `vlmpipe train`.
`SETTINGS` is a JSON object: `train` holds settings of the configuration, `method` and so on; `kill`
and `interrupt` are steps after which process 0 kills the last process, or is told to stop; with
`fail` the others fail, with `idle` there is nothing to train, and with `die` process 0 is killed
before it has said so.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.errors import StageError, VlmpipeError
from vlmpipe.pipeline import StageContext
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training.distributed.assembly import Order, follow, leading, together
from vlmpipe.training.distributed.place import place_of
from vlmpipe.training.distributed.processes import current_processes


class At(SilentReporter):
    """Does something when a step's figures are shown."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings

    def progress(self, label: str, done: float, total: float | None, **fields: str) -> None:
        if done == self.settings.get("kill"):
            last = int(os.environ["WORLD_SIZE"]) - 1
            os.kill(int(pid_file(self.folder, last).read_text()), signal.SIGKILL)
        if done == self.settings.get("interrupt"):
            os.kill(os.getpid(), signal.SIGINT)


def pid_file(folder: Path, rank: int) -> Path:
    return folder.with_name(f"{folder.name}.pid-{rank}")


def run(model: Path, order: Order, reporter: Any) -> None:
    from model_folders import table_sample  # what only waits, or fails, need not load all this
    from vlmpipe.models.base import BaseModelFolder
    from vlmpipe.models.families import family_of
    from vlmpipe.training.run import TrainingData, train

    data = [table_sample(seed) for seed in range(8)]
    base = BaseModelFolder(model, family_of(model), "embedded:test", "r", "digest", 0)
    held = TrainingData(train=data, heldout=data[:1], weights=[1.0] * len(data))
    train(context_of(order, reporter), base, held)


def order_of(folder: Path, config: Any) -> Order:
    folder.mkdir(parents=True, exist_ok=True)
    return Order(config, folder, {}, folder.parent, folder / "log")


def context_of(order: Order, reporter: Any) -> StageContext:
    return StageContext(
        config=order.config,
        folder=order.folder,
        upstream=order.upstream,
        run_folder=order.run_folder,
        log_path=order.log_path,
        log=logging.getLogger("test"),
        reporter=reporter,
    )


def lead(model: Path, folder: Path, settings: dict[str, Any]) -> None:
    if settings.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if settings.get("idle"):
        return
    if settings.get("fail"):
        with together(context_of(order_of(folder, Config()), SilentReporter())):
            current_processes().barrier()
        return
    from training_runs import tiny_config

    run(model, order_of(folder, tiny_config(**settings["train"])), At(folder, settings))


def work(model: Path, settings: dict[str, Any], order: Order) -> None:
    if settings.get("fail"):
        raise StageError("sample 7 of data.jsonl is no image", "leave it out")
    run(model, order, SilentReporter())


def main(model: Path, folder: Path, settings: dict[str, Any]) -> None:
    place = place_of()
    if place is None:
        lead(model, folder, settings)
        return
    pid_file(folder, place.rank).write_text(str(os.getpid()))
    if place.is_first:
        with leading(place):
            lead(model, folder, settings)
    else:
        follow(place, lambda order: work(model, settings, order))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
    except VlmpipeError as error:
        sys.stdout.write(json.dumps({"error": error.message, "remedies": error.remedies}) + "\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt as interrupt:
        sys.stdout.write(json.dumps({"interrupted": getattr(interrupt, "__notes__", [])}) + "\n")
        sys.exit(130)
