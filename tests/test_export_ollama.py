"""Registration with an Ollama server: present, absent, failing, of several versions."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import export_models as models
from ollama_gguf import header_only
from ollama_server import Answered, Asked, Model, OllamaServer, Reply, running
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines import ollama_api
from vlmpipe.export.ollama.modelfile import OllamaSettings, ollama_settings
from vlmpipe.export.ollama.registration import Offer, OllamaResult, Question, likeness, offer_model
from vlmpipe.export.ollama.route import plan_routes

NAME = "demo-finetune"
CONTRACT = models.contract_of("qwen2_5_vl", system_prompt="Read.")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "demo.gguf", tmp_path / "demo-mmproj.gguf"]
    paths[0].write_bytes(header_only("qwen2vl") + b"weights" * 400_000)
    paths[1].write_bytes(header_only("clip", "mmproj"))
    return paths


def offer(
    url: str,
    files: list[Path],
    *,
    settings: OllamaSettings | None = None,
    expected: str | None = None,
    others: Sequence[Question] = (),
    merged: Path | None = None,
) -> OllamaResult:
    modelfile = Path("out/5_convert/latest/Modelfile")
    settings = settings or ollama_settings(CONTRACT)
    question = Question(models.sample_of("qwen2_5_vl").prompt, expected)
    return offer_model(
        Offer(url, NAME, files, settings, CONTRACT, modelfile, merged), [question, *others]
    )


def test_server_gets_the_blobs_and_answers_an_image_on_its_grid(files: list[Path]) -> None:
    with running(OllamaServer()) as server:
        result = offer(server.url, files, expected="123")
    model = server.models[f"{NAME}:latest"]
    height, width = CONTRACT.grid.target_size(models.picture().height, models.picture().width)
    assert (result.state, result.answer, result.likeness) == ("registered", "123", (1.0,))
    assert model.weights == files[0].read_bytes()
    assert model.projector == files[1].read_bytes()
    assert model.order["system"] == "Read."
    assert model.order["parameters"]["stop"] == ["<|im_end|>"]
    assert [image.size for image in server.asked[0].images] == [(width, height)]
    assert set(server.models) == {f"{NAME}:latest"}


def test_server_is_seen_to_render_the_training_prompts(files: list[Path]) -> None:
    with running(OllamaServer()) as server:
        result = offer(server.url, files)
    assert result.prompts is not None
    assert set(result.prompts.shown) >= {"text", "multi-turn", "one image", "two images"}
    assert result.prompts.placeholders is True
    assert len(server.asked) == 1


def test_server_that_renders_another_prompt_is_left_without_the_model(files: list[Path]) -> None:
    settings = ollama_settings(CONTRACT)
    other = replace(settings, template=settings.template.replace("<|im_start|>user", "<|user|>"))
    with running(OllamaServer()) as server:
        result = offer(server.url, files, settings=other)
    assert result.state == "failed"
    assert "its prompt for text differs from the training one at character" in result.detail
    assert server.models == {}


def test_server_that_hides_its_prompts_is_judged_by_answers_alone(files: list[Path]) -> None:
    with running(OllamaServer(shows_prompts=False)) as server:
        result = offer(server.url, files, expected="123")
    assert result.state == "registered"
    assert "this server does not show its prompts; only answers were compared" in result.notes


def test_text_question_is_asked_too(files: list[Path]) -> None:
    text = Question([Message("user", ("1+1?",))], expected="123")
    with running(OllamaServer()) as server:
        result = offer(server.url, files, expected="123", others=[text])
    assert [len(asked.images) for asked in server.asked] == [1, 0]
    assert result.likeness == (1.0, 1.0)


def test_answer_that_is_not_the_files_own_undoes_the_model(files: list[Path]) -> None:
    def gibberish(model: Model, asked: Asked) -> Answered:
        return Answered("G" * 64)

    with running(OllamaServer(answer=gibberish)) as server:
        result = offer(server.url, files, expected="<table>123</table>")
    assert result.state == "failed"
    assert "it answers 'GGGG" in result.detail
    assert "where the same file answers '<table>123</table>' in process" in result.detail
    assert server.models == {}


def test_answers_that_rounding_turned_in_a_word_are_alike() -> None:
    ours = "<tr><td>12</td><td>7 kg</td></tr>"
    assert likeness(ours, ours.replace("7 kg", "1 kg")) > 0.9
    assert likeness(ours, "G" * 40) == 0.0


def test_blob_that_the_server_has_is_not_sent_again(files: list[Path]) -> None:
    with running(OllamaServer()) as server:
        offer(server.url, files)
        server.requests.clear()
        offer(server.url, files)
    assert not [request for request in server.requests if request.startswith("POST /api/blobs")]
    assert set(server.models) == {f"{NAME}:latest"}


def test_full_queue_is_waited_out(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_api, "BUSY_WAIT_S", 0.0)
    with running(OllamaServer(busy=2)) as server:
        assert offer(server.url, files).state == "registered"
    with running(OllamaServer(busy=1000)) as server:
        result = offer(server.url, files)
    assert result.state == "failed"
    assert "server busy, please try again" in result.detail


def test_absent_server_is_stated_with_the_command_for_later(files: list[Path]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        result = offer(url, files)
    assert result.state == "absent"
    assert f"no Ollama server answered at {url}" in result.detail
    assert "ollama create demo-finetune -f out/5_convert/latest/Modelfile" in result.detail


@pytest.mark.parametrize("url", ["not a url", "http://", "ftp://host", "http://[::1", "http://a:b"])
def test_address_that_is_none_counts_as_absent(url: str, files: list[Path]) -> None:
    assert offer(url, files).state == "absent"


@pytest.mark.parametrize("route", ["/api/create", "/api/chat", "/api/blobs"])
def test_failing_server_is_left_without_the_model(route: str, files: list[Path]) -> None:
    with running(OllamaServer(failing=route)) as server:
        result = offer(server.url, files)
    assert result.state == "failed"
    assert "llama runner process has terminated: exit status 2" in result.detail
    assert "ollama create" in result.detail
    assert server.models == {}


def test_file_that_changed_under_way_is_refused_by_its_digest(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama_api, "_sha256", lambda path: "0" * 64)
    with running(OllamaServer()) as server:
        result = offer(server.url, files)
    assert result.state == "failed"
    assert "digest mismatch" in result.detail
    assert server.blobs == {}


def test_file_that_is_no_gguf_fails_in_the_stream_of_create(files: list[Path]) -> None:
    files[0].write_bytes(b"GGML")
    with running(OllamaServer()) as server:
        result = offer(server.url, files)
    assert result.state == "failed"
    assert "create: invalid file magic" in result.detail


def test_model_of_that_name_comes_back_when_the_new_one_fails(files: list[Path]) -> None:
    former = Model({"model": NAME, "template": "the old one"}, b"", None)
    with running(OllamaServer(failing="/api/chat")) as server:
        server.models[f"{NAME}:latest"] = former
        result = offer(server.url, files)
    assert result.state == "failed"
    assert server.models == {f"{NAME}:latest": former}


class Forgetful(OllamaServer):
    """A server that answers nothing and cannot put a model back."""

    def copy(self, order: dict[str, Any]) -> Reply:
        return (
            (500, {"error": "disk full"}) if order["destination"] == NAME else super().copy(order)
        )


def test_model_that_cannot_be_put_back_is_not_thrown_away(files: list[Path]) -> None:
    former = Model({"model": NAME, "template": "the old one"}, b"", None)
    with running(Forgetful(failing="/api/chat")) as server:
        server.models[f"{NAME}:latest"] = former
        result = offer(server.url, files)
    assert (result.state, server.models) == ("failed", {f"{NAME}-before:latest": former})


@pytest.mark.parametrize(
    ("version", "family", "routes"),
    [
        ("0.5.4", "qwen2_5_vl", []),
        ("0.6.8", "qwen2_5_vl", ["split"]),
        ("0.7.0", "qwen2_5_vl", ["safetensors", "split"]),
        ("0.12.6", "qwen3_vl", ["split"]),
        ("0.12.7", "qwen3_vl", ["safetensors", "split"]),
        ("0.24.0", "qwen2_vl", ["split"]),
        ("0.30.0-rc31", "qwen3_vl", ["split"]),
        ("0.40.1", "qwen2_vl", ["split"]),
        ("0.40.1", "qwen3", ["gguf"]),
        ("0.6.0", "qwen3", ["gguf"]),
        ("homemade", "qwen2_5_vl", ["split", "safetensors"]),
    ],
)
def test_route_follows_the_servers_version(version: str, family: str, routes: list[str]) -> None:
    plan = plan_routes(version, models.contract_of(family), has_merged=True)
    assert [route.name for route in plan.routes] == routes
    assert all(route.reason for route in plan.routes)


def test_single_file_route_needs_the_merged_folder() -> None:
    plan = plan_routes("0.12.0", CONTRACT, has_merged=False)
    assert [route.name for route in plan.routes] == ["split"]
    assert "the merged 16-bit folder is not at hand" in plan.notes[0]


def test_images_that_a_server_will_enlarge_are_noted_with_the_setting() -> None:
    [note] = plan_routes("0.35.1", CONTRACT, has_merged=False).notes
    assert "enlarges images of fewer than 1024 tokens" in note
    assert f"model.min_pixels={1024 * 28 * 28}" in note
    large = CONTRACT.model_copy(update={"min_pixels": 1024 * 28 * 28, "max_pixels": 4 * 10**6})
    assert plan_routes("0.35.1", large, has_merged=False).notes == ()


def test_route_that_fails_is_followed_by_the_next_and_remembered(
    files: list[Path], tmp_path: Path
) -> None:
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "model.safetensors").write_bytes(b"weights")
    (merged / "config.json").write_text("{}")
    with running(OllamaServer(version="0.11.0")) as server:
        result = offer(server.url, files, merged=merged)
    assert (result.state, result.route) == ("registered", "split")
    assert "safetensors: create: supplied file was not in GGUF format" in result.notes


def test_split_model_that_a_server_cannot_load_is_undone_with_its_words(files: list[Path]) -> None:
    with running(OllamaServer(version="0.13.5")) as server:
        result = offer(server.url, files)
    assert result.state == "failed"
    assert "split vision models aren't supported" in result.detail
    assert server.models == {}


def test_server_too_old_for_files_is_not_sent_any(files: list[Path]) -> None:
    with running(OllamaServer(version="0.5.1")) as server:
        result = offer(server.url, files)
    assert result.state == "failed"
    assert "Ollama 0.5.1 cannot create a model from files sent to it" in result.detail
    assert server.blobs == {}
