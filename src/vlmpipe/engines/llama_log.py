"""llama.cpp's chatter into Python's logging, its last errors kept for messages of our own."""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from functools import cache
from typing import Any

_LOG = logging.getLogger(__name__)
_WARNING, _ERROR = 3, 4
_LEVELS = {_WARNING: logging.WARNING, _ERROR: logging.ERROR}
"""ggml's levels as ggml.h has them; its `info` is pages for every model load, hence DEBUG here."""

_last_errors: deque[str] = deque(maxlen=4)


def last_errors() -> list[str]:
    """What llama.cpp last complained about, emptied by being read."""
    found = list(_last_errors)
    _last_errors.clear()
    return found


@cache
def capture_log() -> Any:
    """Send the log of libllama and libmtmd to logging; once a process.

    Returns the callback, which must outlive the libraries: the cache holds it.
    """
    import llama_cpp
    from llama_cpp import mtmd_cpp

    callback = llama_cpp.llama_log_callback(_receive)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    # The binding leaves out this function of libmtmd.
    set_mtmd_log = mtmd_cpp._libmtmd.mtmd_helper_log_set
    set_mtmd_log.argtypes = [llama_cpp.llama_log_callback, ctypes.c_void_p]
    set_mtmd_log.restype = None
    set_mtmd_log(callback, ctypes.c_void_p(0))
    return callback


def _receive(level: int, text: bytes, _user_data: object) -> None:
    line = text.decode("utf-8", errors="replace").strip()
    if not line.strip("."):  # progress dots
        return
    if level == _ERROR:
        _last_errors.append(line)
    _LOG.log(_LEVELS.get(level, logging.DEBUG), "%s", line)
