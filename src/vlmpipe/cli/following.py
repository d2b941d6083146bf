"""The train stage in a process that runs no pipeline: it trains along, and keeps its own log."""

from __future__ import annotations

from vlmpipe.pipeline import StageContext
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.pipeline.logs import stage_log
from vlmpipe.stages.s2_train import TRAIN
from vlmpipe.training.distributed.assembly import Order
from vlmpipe.training.distributed.processes import current_processes


def train_as_told(order: Order) -> None:
    """Join process 0's training; logs beside its log, under this process's number."""
    rank = current_processes().rank
    log_path = order.log_path.with_name(f"{order.log_path.stem}.process-{rank}.log")
    with stage_log(log_path) as log:
        TRAIN.run(
            StageContext(
                config=order.config,
                folder=order.folder,
                upstream=order.upstream,
                run_folder=order.run_folder,
                log_path=log_path,
                log=log,
                reporter=SilentReporter(),
            )
        )
