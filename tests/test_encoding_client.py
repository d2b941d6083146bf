"""The documented client of bare runtimes: the same pixels as ours, and requests as documented."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from documented_client import SCRIPT, load_client
from model_folders import contract_of, picture
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.models.families import FAMILIES

LIMITS: list[dict[str, object]] = [
    {},
    {"max_size": None},
    {"max_size": (168, 280)},
    {"max_size": (896, 1232), "max_pixels": 896 * 1232, "min_pixels": 300 * 784},
]


@pytest.fixture(scope="module")
def client() -> Any:
    return load_client()


def terms(contract: PreprocessContract) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(contract.model_dump_json())
    return read


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("limits", LIMITS)
def test_its_resize_is_ours_at_any_size(
    client: Any, family: str, limits: dict[str, object]
) -> None:
    contract = contract_of(FAMILIES[family], **limits)
    drawn = np.random.default_rng(1)
    sizes = [*drawn.integers(2, 700, (25, 2)).tolist(), (70, 238), (80, 176), (3, 500), (640, 5)]
    for height, width in sizes:
        pixels = drawn.integers(0, 2, (height, width, 3), dtype=np.uint8) * 255
        image = Image.fromarray(pixels)
        ours = contract.grid.prepare(image)
        theirs = client.prepare(image, terms(contract))
        assert theirs.size == ours.size, (height, width)
        assert theirs.tobytes() == ours.tobytes(), (height, width)


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "CMYK", "1"])
def test_its_colours_are_ours_in_every_mode(client: Any, mode: str) -> None:
    image = picture(151, 97).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image = image.convert(mode) if mode != "CMYK" else image.convert("RGB").convert(mode)
    contract = contract_of(FAMILIES["qwen2_5_vl"])
    expected = contract.grid.prepare(image)
    assert client.prepare(image, terms(contract)).tobytes() == expected.tobytes()


def test_a_cameras_rotation_is_applied(client: Any) -> None:
    image = picture(280, 140)
    exif = image.getexif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    contract = contract_of(FAMILIES["qwen2_5_vl"])
    turned = client.prepare(Image.open(stream), terms(contract))
    assert turned.height > turned.width
    assert turned.tobytes() == contract.grid.prepare(Image.open(stream)).tobytes()


def test_ollama_is_sent_the_exact_grid_image(client: Any) -> None:
    contract = contract_of(FAMILIES["qwen2_5_vl"], system_prompt="You count.")
    with chat_server("/api/chat", {"message": {"content": "three"}}) as (url, bodies):
        answer = client.ask(url, "mine", terms(contract), picture(151, 97), "How many?")
    assert answer == "three"
    assert (bodies[0]["model"], bodies[0]["stream"]) == ("mine", False)
    system, question = bodies[0]["messages"]
    assert system["content"] == "You count."
    assert question["content"] == "How many?"
    assert pixels_of(question["images"][0]) == contract.grid.prepare(picture(151, 97)).tobytes()


def test_llama_server_is_sent_the_exact_grid_image_and_the_system_prompt(
    client: Any, tmp_path: Path
) -> None:
    """The script as it is called, in a process of its own that finds no vlmpipe."""
    contract = contract_of(FAMILIES["qwen2_5_vl"], system_prompt="You count.")
    contract.write(tmp_path)
    picture(151, 97).save(tmp_path / "page.png")
    answer = {"choices": [{"message": {"role": "assistant", "content": "seven"}}]}
    with chat_server("/v1/chat/completions", answer) as (url, bodies):
        words = ["preprocess_contract.json", "page.png", "How many?", "--url", url]
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_VLMPIPE, str(SCRIPT), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert done.stdout == "seven\n", done.stderr
    system, question = bodies[0]["messages"]
    assert system == {"role": "system", "content": "You count."}
    image, text = question["content"]
    assert text == {"type": "text", "text": "How many?"}
    sent = image["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert pixels_of(sent) == contract.grid.prepare(picture(151, 97)).tobytes()


def pixels_of(text: str) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB").tobytes()


WITHOUT_VLMPIPE = """
import runpy, sys
sys.modules["vlmpipe"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@contextmanager
def chat_server(path: str, answer: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Gives every POST to a path the same answer, and keeps what it was sent."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            data = json.dumps(answer).encode()
            self.send_response(200 if self.path == path else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
