"""One log file a stage, next to the stages: everything that any library logs goes there."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlmpipe.errors import VlmpipeError


class QuietFileHandler(logging.FileHandler):
    """A log that cannot be written (a full disk) must not bury the error of the stage itself."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing."""

    def close(self) -> None:
        """Close, also where the last lines cannot be written any more."""
        with suppress(OSError):
            super().close()


@contextmanager
def stage_log(path: Path) -> Iterator[logging.Logger]:
    """Send the root logger and Python's warnings to `path` (appended) while a stage runs.

    What fails in here is logged with its trace, and told where the log is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = QuietFileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, log = logging.getLogger(), logging.getLogger("vlmpipe")
    before, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield log
    except BaseException as exc:
        log.exception("the stage did not finish")
        _name_log(exc, path)
        raise
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before
        root.setLevel(level)
        handler.close()


def _name_log(exc: BaseException, path: Path) -> None:
    if isinstance(exc, VlmpipeError):
        exc.remedies = (*exc.remedies, f"log: {path}")
    else:
        exc.add_note(f"log: {path}")
