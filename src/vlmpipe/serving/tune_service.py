"""Finds the settings of a service by running its worker with some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from vlmpipe.config.deploy import DeployConfig
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.engines.llama_runtime import available_cpus
from vlmpipe.pipeline.events import Reporter
from vlmpipe.serving.probe import Probe
from vlmpipe.serving.settings import ServiceSettings
from vlmpipe.serving.trial import Measurement, measure
from vlmpipe.serving.tuning import (
    Choice,
    choose_context,
    choose_threads,
    needed_context,
    thread_candidates,
)

ANSWER_TOKENS = 32
"""Enough to see the speed of generation beside that of the prompt."""

MEASURED_ANSWERS = 2


@dataclass(frozen=True)
class Tuned:
    """Settings, and what they were chosen from."""

    settings: ServiceSettings
    threads: Choice
    context: Choice
    memory_mib: float
    """Resident memory of the worker with these settings."""


def tune_service(
    bundle: Path,
    settings: ServiceSettings,
    contract: PreprocessContract,
    wishes: DeployConfig,
    probes: Sequence[Probe],
    log: Path,
    reporter: Reporter,
) -> Tuned:
    """Threads first, at the context that the data needs; then the context with those threads.

    Raises:
        ToolError: when a worker does not come up or does not answer.
    """
    measured: dict[tuple[int, int], Measurement] = {}

    def measure_once(threads: int, n_ctx: int) -> Measurement:
        if (threads, n_ctx) not in measured:
            fields = {"threads": str(threads), "context": str(n_ctx)}
            reporter.progress("tuning", len(measured), None, **fields)
            measured[threads, n_ctx] = measure(
                bundle,
                probes[:MEASURED_ANSWERS],
                log,
                threads=threads,
                n_ctx=n_ctx,
                max_new_tokens=min(ANSWER_TOKENS, settings.max_new_tokens),
                timeout_s=wishes.startup_timeout_s + wishes.request_timeout_s,
            )
        return measured[threads, n_ctx]

    needed = wishes.context_length or needed_context(contract, wishes.max_new_tokens)
    threads = choose_threads(
        wishes.threads, thread_candidates(available_cpus()), measure_once, needed
    )
    first = measure_once(threads.value, needed)
    spare_mib = psutil.virtual_memory().available / 2**20
    context = choose_context(
        wishes.context_length, needed, first.n_ctx_train, measure_once, threads.value, spare_mib
    )
    last = measure_once(threads.value, context.value)
    reporter.progress_done()
    chosen = settings.model_copy(update={"n_threads": threads.value, "n_ctx": context.value})
    return Tuned(chosen, threads, context, last.memory_mib)
