"""Measures that do as the prediction says, in whatever process they are called."""

from __future__ import annotations

import os
import signal
import time


def obey(task: str, prediction: str, reference: str) -> dict[str, float]:
    match prediction:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(600)
        case "raise":
            raise ValueError("no such atom")
        case "eat":
            # More than a worker may hold; never touched, so that the machine stays well.
            bytearray(5 << 30)
    return {"exact_match": float(prediction == reference)}
