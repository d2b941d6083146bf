"""A Node process that parses Mermaid, asked over its standard input a line at a time."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from typing import IO, Any

from vlmpipe.system.mermaid_tool import MermaidTool

START_LIMIT_S = 20.0
"""It starts in 1.5 s on an idle machine. Two starts and two answers stay below the minute that a
metrics process is given for one answer."""

ANSWER_LIMIT_S = 5.0
"""A chart takes milliseconds, one of 500 arrows 0.15 s."""

HEAP_MIB = 512
READ_BYTES = 65_536


class ParserStartError(Exception):
    """Node did not come up with a parser."""


class ParserStoppedError(Exception):
    """The parser died, or gave no answer in time; it is of no use any more."""


class ParserProcess:
    """One running parser. Not for several threads at once.

    It ends with this process, however that ends: its input ends, and where it is caught in a
    parse it sees that its parent is another.
    """

    def __init__(self, tool: MermaidTool) -> None:
        """Start it and wait until it is ready.

        Raises:
            ParserStartError: when Node cannot be run, ends, or is not ready within 20 s.
        """
        heap = f"--max-old-space-size={HEAP_MIB}"
        try:
            # A session of its own: Ctrl-C asks this process to finish, not the parser to die.
            self._process = subprocess.Popen(
                [str(tool.node), heap, str(tool.script), str(tool.folder), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as exc:
            raise ParserStartError(f"cannot run {tool.node}: {exc}") from exc
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._number = 0
        try:
            if "ready" not in self._line(time.monotonic() + START_LIMIT_S):
                raise ParserStoppedError("its first line is another")
        except ParserStoppedError as exc:
            self.stop()
            raise ParserStartError(f"no parser in {tool.folder}: {exc}") from exc

    @property
    def pid(self) -> int:
        """Of the Node process."""
        return self._process.pid

    def accepts(self, text: str) -> bool:
        """Whether `text`, any Python string, is valid Mermaid.

        Raises:
            ParserStoppedError: when the process died or took more than its time.
        """
        self._number += 1
        deadline = time.monotonic() + ANSWER_LIMIT_S
        # ASCII, so that a lone surrogate can be sent at all.
        line = json.dumps({"id": self._number, "text": text}, ensure_ascii=True) + "\n"
        self._write(line.encode("ascii"), deadline)
        answer = self._line(deadline)
        if answer.get("id") != self._number:
            raise ParserStoppedError("it answered another question")
        return answer.get("valid") is True

    def stop(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        self._close_pipes()

    def leave_to_parent(self) -> None:
        """In a forked child: close its copies of the pipes, which would keep the parser alive
        when the parent has gone.
        """
        self._close_pipes()
        self._process.returncode = 0  # not this process's to wait for

    def _close_pipes(self) -> None:
        self._stdin.close()
        self._stdout.close()

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            _wait(self._stdin, select.POLLOUT, deadline)
            try:
                rest = rest[os.write(self._stdin.fileno(), rest) :]
            except BlockingIOError:
                continue
            except OSError as exc:
                raise ParserStoppedError(f"it takes no more: {exc}") from exc

    def _line(self, deadline: float) -> dict[str, Any]:
        """The next line of its output; one question is under way, so nothing follows it."""
        data = b""
        while not data.endswith(b"\n"):
            _wait(self._stdout, select.POLLIN, deadline)
            part = os.read(self._stdout.fileno(), READ_BYTES)
            if not part:
                raise ParserStoppedError("it died")
            data += part
        try:
            answer = json.loads(data)
        except ValueError as exc:
            raise ParserStoppedError("it answered no JSON") from exc
        return answer if isinstance(answer, dict) else {}


def _wait(stream: IO[bytes], event: int, deadline: float) -> None:
    """Until the stream can be read or written, or has been closed on the other side."""
    # Not select.select: it refuses descriptors from 1024 on.
    poll = select.poll()
    poll.register(stream, event)
    left_s = deadline - time.monotonic()
    if left_s <= 0 or not poll.poll(left_s * 1000):
        raise ParserStoppedError("it gave no answer in time")
