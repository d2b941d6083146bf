"""The real gateway with a real model behind it, spoken to by real clients over real sockets."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

import serving_fakes as fakes
from serving_models import Conversions, make_bundle
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.errors import StageError, ToolError
from vlmpipe.serving.run import bind
from vlmpipe.serving.running import RunningService
from vlmpipe.serving.settings import ServiceSettings

pytestmark = pytest.mark.slow
NAME = "random-qwen2_5_vl"


@dataclass(frozen=True)
class Served:
    """A gateway that is ready."""

    service: RunningService
    settings: ServiceSettings
    folder: Path

    @property
    def url(self) -> str:
        return self.service.url

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    @property
    def worker(self) -> psutil.Process:
        children = psutil.Process(self.service.process.pid).children()
        return next(child for child in children if "vlmpipe.serving.worker" in child.cmdline())


def start(folder: Path, conversions: Conversions, **settings: object) -> Iterator[Served]:
    made = make_bundle(folder / "bundle", conversions.of(NAME), **settings)
    with RunningService(folder / "bundle", folder / "log", timeout_s=60) as service:
        service.wait_until_ready()
        yield Served(service, made, folder)


@pytest.fixture(scope="module")
def served(conversions: Conversions, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from start(tmp_path_factory.mktemp("served"), conversions)


@pytest.fixture
def own(conversions: Conversions, tmp_path: Path) -> Iterator[Served]:
    """A gateway of a test's own, to be ill-treated; its answers are long."""
    yield from start(tmp_path, conversions, max_new_tokens=4000, n_ctx=8192)


def image_message(data: bytes, text: str = "Read it.") -> dict[str, Any]:
    url = {"url": fakes.data_url(data)}
    parts = [{"type": "image_url", "image_url": url}, {"type": "text", "text": text}]
    return {"role": "user", "content": parts}


def leave_half_way(url: str, body: dict[str, Any]) -> None:
    """Send a request and hang up after its first bytes, or after a second without any."""
    with (
        suppress(httpx.TimeoutException),
        httpx.Client(base_url=url, timeout=1.0) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        next(response.iter_bytes())


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_openai_client_gets_the_engines_own_answer_whole_and_streamed(
    served: Served, conversions: Conversions
) -> None:
    openai = pytest.importorskip("openai")
    data = fakes.picture()
    made = conversions.of(NAME)
    engine = LlamaCppEngine(made.gguf, made.mmproj, made.contract, name="x", n_threads=1)
    prompt = [Message("user", (Image.open(BytesIO(data)), "Read it."))]
    expected = engine.complete(prompt, max_new_tokens=12)
    engine.close()
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    asked = {
        "model": served.settings.model_id,
        "messages": [image_message(data)],
        "max_tokens": 12,
    }
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == expected.text
    assert whole.choices[0].finish_reason == expected.finish_reason
    assert whole.usage.prompt_tokens == expected.prompt_tokens
    assert whole.usage.completion_tokens == expected.completion_tokens
    stream = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == expected.text
    assert len(pieces) > 5
    assert chunks[-1].usage.prompt_tokens == expected.prompt_tokens
    assert [model.id for model in client.models.list()] == [served.settings.model_id]


def test_the_openai_client_gets_the_engines_own_probabilities_whole_and_streamed(
    served: Served, conversions: Conversions
) -> None:
    openai = pytest.importorskip("openai")
    data = fakes.picture()
    made = conversions.of(NAME)
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    asked = {
        "model": served.settings.model_id,
        "messages": [image_message(data)],
        "max_tokens": 12,
        "logprobs": True,
        "top_logprobs": 5,
    }
    (whole,) = client.chat.completions.create(**asked).choices
    tokens = whole.logprobs.content
    assert len(tokens) == 12
    assert bytes(b for token in tokens for b in token.bytes).decode(errors="replace") == (
        whole.message.content
    )
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    streamed = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content]
    assert streamed == tokens
    assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.message.content
    engine = LlamaCppEngine(made.gguf, made.mmproj, made.contract, name="x", n_threads=1)
    prompt = [Message("user", (Image.open(BytesIO(data)), "Read it."))]
    rows = list(engine.follow(prompt, [token.id for token in tokens]))
    engine.close()
    for token, row in zip(tokens, rows, strict=True):
        best = np.argsort(-row, kind="stable")[:5]
        assert [likely.id for likely in token.top_logprobs] == best.tolist()
        assert token.id == best[0]
        for likely in [token, *token.top_logprobs]:
            assert likely.logprob == pytest.approx(row[likely.id], abs=1e-9)


def test_the_openai_client_understands_the_errors(served: Served) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    bad = image_message(b"no image")
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=served.settings.model_id, messages=[bad])
    assert raised.value.code == "invalid_image"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="another", messages=[bad])


@pytest.mark.parametrize("stream", [False, True])
def test_images_that_only_decoding_finds_out_are_refused_and_the_worker_lives(
    stream: bool, served: Served
) -> None:
    before = served.worker.pid
    whole = fakes.picture(size=(400, 300))
    damaged = whole[:60] + bytes(40) + whole[100:]
    with served.client() as client:
        for data in (whole[: len(whole) // 2], damaged, fakes.picture("JPEG")[:300]):
            body = {"messages": [image_message(data)], "stream": stream}
            response = client.post("/v1/chat/completions", json=body)
            assert response.status_code == 400, response.text
            assert response.json()["error"]["code"] == "invalid_image"
        assert client.post("/chat", json={"message": "hi", "max_tokens": 2}).status_code == 200
    assert served.worker.pid == before


def test_a_conversation_beyond_the_context_is_refused_with_both_counts(served: Served) -> None:
    with served.client() as client:
        response = client.post("/chat", json={"message": "12 " * 2000})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert str(served.settings.n_ctx) in error["message"]


def test_requests_at_once_all_get_their_own_answer(served: Served) -> None:
    def ask(size: int) -> tuple[int, str]:
        data = fakes.picture(size=(size, 60))
        body = {"message": "Read", "images": [fakes.encoded(data)], "max_tokens": 8}
        with served.client() as client:
            return size, client.post("/chat", json=body).json()["answer"]

    sizes = [60, 90, 120, 150]
    alone = dict(map(ask, sizes))
    with ThreadPoolExecutor(4) as pool:
        assert dict(pool.map(ask, sizes)) == alone


def test_a_worker_killed_under_a_request_gives_503_and_is_replaced(own: Served) -> None:
    before = own.worker.pid
    with own.client() as client, ThreadPoolExecutor(1) as pool:
        pending = pool.submit(client.post, "/chat", json={"message": "tell"})
        eventually(lambda: "vlmpipe_requests_running 1.0" in client.get("/metrics").text)
        os.kill(before, signal.SIGKILL)
        response = pending.result()
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_restarting"
        assert int(response.headers["retry-after"]) > 0
        eventually(lambda: client.get("/health").status_code == 200)
        assert client.post("/chat", json={"message": "a", "max_tokens": 2}).status_code == 200
        assert "vlmpipe_worker_restarts 1.0" in client.get("/metrics").text
    assert own.worker.pid != before


def test_a_client_that_hangs_up_frees_the_engine(own: Served) -> None:
    before = own.worker.pid
    for stream in (True, False):
        body = {"messages": [{"role": "user", "content": "tell"}], "stream": stream}
        leave_half_way(own.url, body)
    with own.client() as client:
        eventually(lambda: "vlmpipe_requests_running 0.0" in client.get("/metrics").text)
        assert client.post("/chat", json={"message": "a", "max_tokens": 2}).status_code == 200
    assert own.worker.pid == before


def test_sigterm_finishes_the_stream_under_way_and_takes_nothing_new(own: Served) -> None:
    body = {
        "messages": [{"role": "user", "content": "tell"}],
        "stream": True,
        # As long as can be: the stream must outlast the refusal on a busy machine too.
        "max_tokens": 4000,
    }
    lines: list[str] = []
    began = threading.Event()

    def read() -> None:
        with (
            own.client() as client,
            client.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            for line in response.iter_lines():
                lines.append(line)
                began.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert began.wait(30)
    os.kill(own.service.process.pid, signal.SIGTERM)
    refused = False
    while reader.is_alive() and not refused:
        try:
            httpx.get(f"{own.url}/health", timeout=2)
        except httpx.ConnectError:
            refused = True
    reader.join(60)
    assert refused
    assert "data: [DONE]" in lines
    assert own.service.stop() == 0


def test_the_worker_does_not_outlive_a_killed_gateway(own: Served) -> None:
    worker = own.worker
    own.service.process.kill()
    worker.wait(30)
    assert not worker.is_running()


def test_a_gateway_does_not_outlive_who_started_it(
    conversions: Conversions, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "bundle", conversions.of(NAME))
    with RunningService(tmp_path / "bundle", tmp_path / "log", timeout_s=60) as service:
        service.wait_until_ready()
        assert service.process.stdin is not None
        service.process.stdin.close()
        assert service.process.wait(30) == 0


def test_a_model_that_cannot_be_loaded_is_reported_not_waited_for(
    conversions: Conversions, tmp_path: Path
) -> None:
    settings = make_bundle(tmp_path / "bundle", conversions.of(NAME))
    damaged = tmp_path / "bundle" / settings.gguf
    damaged.unlink()
    damaged.write_bytes(b"GGUF" + bytes(64))
    with (
        RunningService(tmp_path / "bundle", tmp_path / "log", timeout_s=60) as service,
        pytest.raises(StageError, match="could not load the model") as raised,
    ):
        service.wait_until_ready()
    assert any("cannot load" in line for line in raised.value.problems)


def test_a_bundle_that_is_none_is_refused_in_words(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "vlmpipe.serving", "--bundle", str(tmp_path), "--port", "0"]
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert found.returncode == 4
    assert "service.json" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ToolError, match=str(port)) as raised:
            bind("127.0.0.1", port)
    assert any("deploy.port=" in remedy for remedy in raised.value.remedies)


def test_the_page_shows_the_model_and_that_it_is_ready(served: Served, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here to draw the page")
    argv = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"),
    ]
    dom = subprocess.run(
        [*argv, "--dump-dom", served.url], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert served.settings.model_id in dom
    assert '<span id="state" role="status" class="ready">ready</span>' in dom
    picture = tmp_path / "page.png"
    subprocess.run(
        [*argv, f"--screenshot={picture}", "--window-size=900,700", served.url],
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert picture.stat().st_size > 5_000
