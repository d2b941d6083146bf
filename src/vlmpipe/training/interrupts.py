"""Ctrl-C and SIGTERM while training: the step under way is finished and saved first."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from transformers import TrainerCallback

from vlmpipe.pipeline.events import Reporter
from vlmpipe.training.distributed.processes import Processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Takes the first signal as a wish to stop after this step; the second one stops at once."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._before: dict[signal.Signals, Any] = {}
        self.asked = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._reporter.note("stopping after this step, with a checkpoint; again stops at once")


class StopWhenAsked(TrainerCallback):
    """Ends the loop, with a checkpoint, at the end of the step in which a stop was asked for."""

    def __init__(self, request: StopRequest, processes: Processes) -> None:
        """What one process was asked, all do: they must leave the loop together."""
        self._request = request
        self._processes = processes

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Save and stop."""
        self._request.asked = self._processes.any(self._request.asked)
        if self._request.asked:
            control.should_save = True
            control.should_training_stop = True
        return control


def interruption(step: int, last_step: int) -> KeyboardInterrupt:
    """What is raised when the loop has ended as asked."""
    interrupt = KeyboardInterrupt()
    interrupt.add_note(f"the training stopped after step {step} of {last_step} and was saved there")
    return interrupt
