"""Chromium with real keys, over the DevTools protocol on a pair of pipes."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_S = 60
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Backspace": 8, "Enter": 13, "Escape": 27}


class DevToolsError(Exception):
    """A command that the browser refused."""


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.console: list[str] = []

    def attach(self, downloads: Path) -> None:
        """Open a page, listen to its console."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._read()
            if reply.get("id") == self._number:
                if "error" in reply:
                    raise DevToolsError(reply["error"])
                return reply["result"]

    def size(self, width: int, height: int) -> None:
        """The window's inside, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def open(self, path: Path) -> None:
        """Load a file and wait until its script ran and its pictures are there."""
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self) -> None:
        """As F5 does."""
        self.run("window.old = true")
        self.call("Page.reload")
        self.wait("!window.old && document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression holds."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            # Between two pages there is none to ask.
            with contextlib.suppress(DevToolsError):
                if self.run(condition):
                    return
            time.sleep(0.02)
        raise AssertionError(f"never came true: {condition}")

    def press(self, key: str) -> None:
        """A key goes down and up."""
        code = KEYS.get(key, ord(key.upper()[0]))
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        named = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **named, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def click(self, selector: str) -> None:
        """The mouse on the middle of an element."""
        x, y = self.run(
            f"(() => {{ const box = document.querySelector({selector!r}).getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        at = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **at)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **at)

    def screenshot(self, path: Path) -> None:
        """What the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._from, 1 << 16)
            assert piece, "Chromium has ended"
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        if message.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.console.append(json.dumps(message["params"])[:500])
        if message.get("method") == "Log.entryAdded":
            self.console.append(message["params"]["entry"]["text"])
        return message


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile and a place for downloads of its own."""
    downloads = folder / "downloads"
    downloads.mkdir(exist_ok=True)
    commands, results = os.pipe(), os.pipe()
    inherited = _high(commands[0]), _high(results[1])
    words = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-pipe",
        f"--user-data-dir={folder / 'profile'}",
    ]
    # The protocol wants its pipes as 3 and 4.
    script = f'exec "$@" 3<&{inherited[0]} 4>&{inherited[1]}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *words],
        pass_fds=inherited,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for handle in inherited:
        os.close(handle)
    try:
        found = Browser(commands[1], results[0])
        found.attach(downloads)
        yield found
    finally:
        process.kill()
        process.wait()
        os.close(commands[1])
        os.close(results[0])


def _high(handle: int) -> int:
    """The same pipe under a number that 3 and 4 cannot be."""
    copy = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(handle)
    return copy
