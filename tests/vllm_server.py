"""A real vLLM on the CPU, in the environment that `make test-vllm` builds."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/vllm_environment.py"
START_S = 400
QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}


def vllm_python() -> Path:
    """The interpreter of vLLM's environment; skips the test where there is none."""
    spec = importlib.util.spec_from_file_location("vllm_environment", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.interpreter()
    if found is None:
        pytest.skip("vLLM's environment is not built: run `make test-vllm`")
    return Path(found)


@contextmanager
def vllm_server(model: Path, log: Path) -> Iterator[str]:
    """A server of one model folder with its own chat template, in 32 bit; its address."""
    python = vllm_python()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {
        "--model": str(model),
        "--served-model-name": "tiny",
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": "float32",
        "--max-model-len": "1024",
        "--max-num-seqs": "4",
        "--chat-template": str(model / "chat_template.jinja"),
    }
    if (model / "preprocessor_config.json").is_file():
        flags["--limit-mm-per-prompt"] = json.dumps({"image": 2, "video": 0})
    words = [word for pair in flags.items() for word in pair]
    argv = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", *words]
    with log.open("w") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=output, env=os.environ | QUIET, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(url, process, log)
        yield f"{url}/v1"
    finally:
        # It runs its engine in a process of its own, in the same group.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{url}/health"):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    pytest.fail(f"vLLM was not ready: {log.read_text()[-3000:]}")
