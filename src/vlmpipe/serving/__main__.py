"""Serve a bundle: `python -m vlmpipe.serving --bundle DIR`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from vlmpipe.errors import VlmpipeError
from vlmpipe.serving.run import bind, run_gateway, url_of


def main() -> int:
    """Parse, listen, serve; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vlmpipe.serving", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="folder that deploy wrote")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fd", type=int, help="serve on a listening socket handed over")
    parser.add_argument("--attached", action="store_true", help="stop when stdin is closed")
    parser.add_argument("--worker-log", type=Path, help="file for the worker's log")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        if arguments.fd is None:
            listening = bind(arguments.host, arguments.port)
        else:
            listening = socket.socket(fileno=arguments.fd)
        logging.getLogger("vlmpipe.serving").info("listening on %s", url_of(listening))
        if arguments.attached:
            threading.Thread(target=_stop_with_stdin, daemon=True).start()
        run_gateway(arguments.bundle, listening, worker_log=arguments.worker_log)
    except VlmpipeError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    return 0


def _stop_with_stdin() -> None:
    """Whoever started this service holds the other end: it cannot be outlived, however it dies."""
    # Not through sys.stdin: its lock, held here, would abort the interpreter at its end.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
