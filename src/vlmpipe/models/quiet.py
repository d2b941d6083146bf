"""transformers without its own progress bars and chatter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

RENAMED = (
    r"`(is_)?gradient_checkpointing(_kwargs|_enable|_disable)?` is deprecated and will be removed"
    r" in v6\. Use `"
)
"""transformers of its own attributes; it reads like a word on `train.gradient_checkpointing`."""

WITHOUT_KERNELS = "Failed to load CPU gemm_4bit_forward from kernels-community: "
"""bitsandbytes of a faster multiplication that it would download; without it, it uses its own."""

BITSANDBYTES_CPU = "bitsandbytes.backends.cpu.ops"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars of transformers: progress is the reporter's."""
    quieten_known()
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.WARNING)
    yield


def quieten_known() -> None:
    """From now on, drop what libraries say that is known to mean nothing for a person here."""
    warnings.filterwarnings("ignore", message=RENAMED, category=FutureWarning)
    logging.getLogger(BITSANDBYTES_CPU).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(WITHOUT_KERNELS)
