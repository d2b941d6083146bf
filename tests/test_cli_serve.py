"""`vlmpipe serve` as a person runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from serving_models import Conversions, make_bundle
from vlmpipe.serving.run import bind

SERVE = [sys.executable, "-c", "from vlmpipe.cli.app import main; main()", "serve"]


def refused(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A serve that must not start."""
    found = subprocess.run([*SERVE, *words], capture_output=True, text=True, cwd=cwd, check=False)
    assert "Traceback" not in found.stderr
    return found


def test_a_run_that_was_never_deployed_says_how_to(tmp_path: Path) -> None:
    found = refused("run.name=none", cwd=tmp_path)
    assert found.returncode == 4
    assert "vlmpipe run-all" in found.stderr


@pytest.mark.slow
def test_a_port_in_use_ends_with_the_way_out(conversions: Conversions, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", conversions.of("random-qwen3"))
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        found = refused("--bundle", "bundle", f"deploy.port={port}", cwd=tmp_path)
    assert found.returncode == 6
    assert f"port {port}" in found.stderr
    assert "deploy.port=" in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_where_answers_and_stops_cleanly(
    number: signal.Signals, conversions: Conversions, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "bundle", conversions.of("random-qwen3"))
    process = subprocess.Popen(
        [*SERVE, "--bundle", "bundle", "deploy.port=0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if httpx.get(f"{said['url']}/health").status_code == 200:
            break
        time.sleep(0.1)
    answer = httpx.post(f"{said['url']}/chat", json={"message": "hi", "max_tokens": 2}, timeout=30)
    assert answer.status_code == 200
    os.kill(process.pid, number)
    rest, told = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest == ""
    assert "curl" in told
    assert "ready" in told
    assert "Traceback" not in told
