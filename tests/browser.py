"""A real Chromium, spoken to by its DevTools protocol over a pipe: pages as people see them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_S = 120
"""For one answer of the browser, on a machine that is busy with other things."""

PROBE = """(() => {
  const shown = e => e.getClientRects().length > 0;
  const boxes = [...document.querySelectorAll("body *")].filter(shown);
  const texts = boxes.filter(
    e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && !e.closest("svg"));
  const sizes = texts.map(e => parseFloat(getComputedStyle(e).fontSize));
  const scrolls = e => e && (["auto", "scroll"].includes(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  const wide = boxes.filter(e => e.getBoundingClientRect().right > innerWidth + 1
    && !e.closest("svg") && !scrolls(e));
  const images = [...document.images];
  return {
    images: images.length,
    loaded: images.filter(i => i.complete && i.naturalWidth > 0).length,
    overflow: document.documentElement.scrollWidth - innerWidth,
    wide: wide.slice(0, 5).map(e => e.outerHTML.slice(0, 120)),
    smallest: Math.min(...sizes),
    drawings: [...document.querySelectorAll("svg")].filter(shown)
      .filter(e => e.getBoundingClientRect().width > 0).length,
    sections: document.querySelectorAll("main section").length,
    hacked: window.hacked === 1,
    background: getComputedStyle(document.body).backgroundColor,
    height: document.documentElement.scrollHeight,
  };
})()"""


@dataclass(frozen=True)
class Seen:
    """A page at one width."""

    console: list[str]
    """Messages of the console, exceptions and refused loads."""

    requests: list[str]
    """Addresses that the page asked for, but for its own and `data:`."""

    images: int
    loaded: int
    overflow: float
    """Pixels by which the page is wider than the window."""

    wide: list[str]
    """Elements that reach beyond the window and are in no box that scrolls."""

    smallest: float
    """Font size of the smallest text outside of drawings, pixels."""

    drawings: int
    sections: int
    hacked: bool
    background: str
    height: float


class Browser:
    """One headless Chromium; use `opened_browser`."""

    def __init__(self, folder: Path) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._log = (folder / "chromium.log").open("wb")
        argv = [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder / 'profile'}",
            "about:blank",
        ]
        # Chromium reads commands from file descriptor 3 and answers on 4.
        redirected = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirected, "chromium", *argv],
            pass_fds=(theirs_in, theirs_out),
            stdout=self._log,
            stderr=self._log,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out = os.fdopen(ours_out, "wb", buffering=0)
        self._in = os.fdopen(ours_in, "rb", buffering=0)
        self._rest = b""
        self._count = 0
        self._events: list[dict[str, Any]] = []

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._out, self._in, self._log):
            stream.close()

    def look(
        self, page: Path, width: int, *, scheme: str = "light", picture: Path | None = None
    ) -> Seen:
        """Open a page at a width, as `light` or `dark` as the reader wishes it; `picture` is where
        a picture of all of it goes.
        """
        target, session = self._opened(page, width, scheme)
        found = self._evaluate(session, PROBE)
        if picture is not None:
            self._set_size(session, width, int(found["height"]))
            shot = self._call("Page.captureScreenshot", session, format="png")
            picture.write_bytes(base64.b64decode(shot["data"]))
        self._call("Target.closeTarget", targetId=target)
        return Seen(console=self._console(), requests=self._requests(page), **found)

    def ask(self, page: Path, width: int, code: str) -> Any:
        """What a script of ours finds in a page at a width."""
        target, session = self._opened(page, width, "light")
        found = self._evaluate(session, code)
        self._call("Target.closeTarget", targetId=target)
        return found

    def _opened(self, page: Path, width: int, scheme: str) -> tuple[str, str]:
        self._events.clear()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", session)
        self._set_size(session, width, 900)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", session, features=features)
        self._call("Page.navigate", session, url=page.as_uri())
        self._wait_for("Page.loadEventFired")
        # Two frames, so that everything is laid out; then what scripts left behind can be seen.
        frames = "new Promise(d => requestAnimationFrame(() => requestAnimationFrame(() => d(1))))"
        self._evaluate(session, frames)
        return target, session

    def _set_size(self, session: str, width: int, height: int) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            session,
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def _evaluate(self, session: str, code: str) -> Any:
        found = self._call(
            "Runtime.evaluate", session, expression=code, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def _console(self) -> list[str]:
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(event["params"]) for event in self._events if event["method"] in kinds]

    def _requests(self, page: Path) -> list[str]:
        asked = [
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if url != page.as_uri() and not url.startswith("data:")]

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._events.append(answer)

    def _wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._read())

    def _read(self) -> dict[str, Any]:
        """The next message; each ends with a NUL."""
        deadline = time.monotonic() + PATIENCE_S
        while b"\0" not in self._rest:
            assert time.monotonic() < deadline, "the browser does not answer"
            piece = self._in.read(1 << 20)
            assert piece, "the browser ended"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))


@contextmanager
def opened_browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own under a folder."""
    browser = Browser(folder)
    try:
        yield browser
    finally:
        browser.close()
