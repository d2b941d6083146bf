"""A real llama-server, told what the contract says and asked by the documented client."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from documented_client import load_client
from serving_models import Conversions, Converted
from test_engine_llama_cpp import noise
from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.runtime_flags import runtime_flags
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.system.llama_tools import LlamaTools, cached_tools

SIZES = [(97, 151), (225, 57), (70, 238), (345, 451), (40, 31)]
QUESTION = "Read this: 12 + 7?"
TOKENS = 2
"""Of random weights: from the third one on, rounding decides between two equally likely ones."""

START_S = 120


@pytest.mark.slow
def test_a_bare_server_answers_prepared_images_as_the_engine_does(
    conversions: Conversions,
    tmp_path: Path,
) -> None:
    tools = cached_tools()
    if tools is None:
        pytest.skip("llama-server is not built: run `make llama-tools`")
    client, converted = load_client(), conversions.of("random-qwen2_5_vl")
    contract = json.loads(converted.contract.model_dump_json())
    images = [noise(*size) for size in SIZES]
    with server(tools, converted, tmp_path) as url:
        prepared = [client.ask(url, None, contract, image, QUESTION) for image in images]
        client.prepare = lambda image, contract: image
        bare = [client.ask(url, None, contract, image, QUESTION) for image in images]
    gguf, mmproj = converted.gguf, converted.mmproj
    with closing(LlamaCppEngine(gguf, mmproj, converted.contract, name="x", n_threads=1)) as engine:
        prompts = [[Message("user", (image, QUESTION))] for image in images]
        expected = [engine.complete(each, max_new_tokens=TOKENS).text for each in prompts]
    assert prepared == expected
    assert bare != expected


@contextmanager
def server(tools: LlamaTools, converted: Converted, folder: Path) -> Iterator[str]:
    """llama-server with the contract's flags, on a free port."""
    words = [*runtime_flags(converted.contract), "-n", str(TOKENS), "-t", "1"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [tools.server, "-m", converted.gguf, "--mmproj", converted.mmproj, "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen([*map(str, argv), *words], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(url, process, folder / "server.log")
        yield url
    finally:
        process.terminate()
        process.wait()


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{url}/health"):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    pytest.fail(f"llama-server was not ready: {log.read_text()[-2000:]}")
