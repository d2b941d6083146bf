"""The Modelfile, and registration with an Ollama server: present, absent, failing."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

import export_models as models
from ollama_server import OllamaServer, running
from vlmpipe.encoding.chat import render
from vlmpipe.encoding.conversation import Message
from vlmpipe.errors import ConfigError
from vlmpipe.export.modelfile import go_template, ollama_settings, render_modelfile
from vlmpipe.export.ollama import OllamaResult, register

NAME = "demo-finetune"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "demo.gguf", tmp_path / "demo-mmproj.gguf"]
    paths[0].write_bytes(b"weights" * 400_000)
    paths[1].write_bytes(b"tower")
    return paths


def offer(url: str, files: list[Path]) -> OllamaResult:
    contract = models.contract_of("qwen2_5_vl", system_prompt="Read.")
    return register(
        url,
        NAME,
        files,
        ollama_settings(contract),
        contract,
        models.sample_of("qwen2_5_vl").prompt,
        Path("out/5_convert/latest/Modelfile"),
    )


def test_server_gets_the_blobs_and_answers_an_image_on_its_grid(files: list[Path]) -> None:
    with running(OllamaServer()) as server:
        result = offer(server.url, files)
    model = server.models[NAME]
    contract = models.contract_of("qwen2_5_vl")
    height, width = contract.grid.target_size(models.picture().height, models.picture().width)
    assert (result.state, result.answer) == ("registered", "123")
    assert {server.blobs[digest][:5] for digest in model["files"].values()} == {b"weigh", b"tower"}
    assert model["system"] == "Read."
    assert model["parameters"]["stop"] == ["<|im_end|>"]
    assert model["parameters"]["temperature"] == 0
    assert [image.size for image in server.images] == [(width, height)]
    assert set(server.models) == {NAME}


def test_blob_that_the_server_has_is_not_sent_again(files: list[Path]) -> None:
    with running(OllamaServer()) as server:
        offer(server.url, files)
        server.requests.clear()
        offer(server.url, files)
    assert not [request for request in server.requests if request.startswith("POST /api/blobs")]
    assert set(server.models) == {NAME}


def test_absent_server_is_stated_with_the_command_for_later(files: list[Path]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        result = offer(url, files)
    assert result.state == "absent"
    assert f"no Ollama server answered at {url}" in result.detail
    assert "ollama create demo-finetune -f out/5_convert/latest/Modelfile" in result.detail


@pytest.mark.parametrize("url", ["not a url", "http://", "ftp://host"])
def test_address_that_is_none_counts_as_absent(url: str, files: list[Path]) -> None:
    assert offer(url, files).state == "absent"


@pytest.mark.parametrize("route", ["/api/create", "/api/chat", "/api/blobs"])
def test_failing_server_is_left_without_the_model(route: str, files: list[Path]) -> None:
    with running(OllamaServer(failing=route)) as server:
        result = offer(server.url, files)
    assert result.state == "failed"
    assert "runner terminated: unsupported split model" in result.detail
    assert "ollama create" in result.detail
    assert server.models == {}


def test_model_of_that_name_comes_back_when_the_new_one_fails(files: list[Path]) -> None:
    with running(OllamaServer(failing="/api/chat")) as server:
        server.models[NAME] = {"model": NAME, "template": "the old one"}
        result = offer(server.url, files)
    assert result.state == "failed"
    assert server.models == {NAME: {"model": NAME, "template": "the old one"}}


@pytest.mark.parametrize("family", models.FAMILY_NAMES)
@pytest.mark.parametrize("system", [None, "Read the page."])
def test_go_template_renders_what_the_chat_template_renders(
    family: str, system: str | None
) -> None:
    contract = models.contract_of(family, system_prompt=system)
    talk = [
        Message("user", ("1+1?",)),
        Message("assistant", ("2",)),
        Message("user", ("{{ .Content }}\nand 2+2?",)),
    ]
    turns = contract.conversation(talk)
    expected = render(contract.chat_template, turns, add_generation_prompt=True)
    assert render_go(go_template(contract), turns) == expected


def render_go(template: str, turns: list[Message]) -> str:
    """The few constructs of Go's text/template that the template uses; no trimming markers."""
    assert "{{-" not in template
    assert "-}}" not in template
    match = re.fullmatch(r"(?s)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}(.*)", template)
    assert match
    body, tail = match.groups()
    return "".join(turn_in_go(body, turn) for turn in turns) + tail


def turn_in_go(body: str, turn: Message) -> str:
    condition = r'(?s)\{\{ if eq \.Role "assistant" \}\}(.*?)\{\{ end \}\}'
    text = re.sub(condition, r"\1" if turn.role == "assistant" else "", body)
    values = {"{{ .Role }}": turn.role, "{{ .Content }}": turn.text}
    return re.sub(r"\{\{ \.\w+ \}\}", lambda found: values[found[0]], text)


def test_modelfile_states_files_template_and_parameters() -> None:
    contract = models.contract_of("qwen2_5_vl", system_prompt="Read.")
    text = render_modelfile(["gguf/a.gguf", "gguf/m.gguf"], ollama_settings(contract))
    assert text.startswith('FROM ./gguf/a.gguf\nFROM ./gguf/m.gguf\nTEMPLATE """{{ range')
    assert 'SYSTEM """Read."""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "PARAMETER temperature 0\n" in text
    assert f"PARAMETER num_ctx {contract.context_length}\n" in text


def test_system_prompt_that_would_end_the_modelfiles_text_is_refused() -> None:
    contract = models.contract_of("qwen3", system_prompt='Say """hi"""')
    with pytest.raises(ConfigError, match="system_prompt"):
        ollama_settings(contract)
