"""What the gateway takes, what it refuses, and in which words; no model is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

import serving_fakes as fakes
import vlmpipe
from serving_fakes import ScriptedBackend
from vlmpipe.serving.app import create_app
from vlmpipe.serving.wire import Event

MODEL = "demo-finetune-q8_0"


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def client(backend: ScriptedBackend) -> Iterator[TestClient]:
    with TestClient(create_app(fakes.settings(), backend)) as opened:
        yield opened


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error of a refused request, which must have OpenAI's form."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def with_image(url: str) -> dict[str, Any]:
    """A completion request with one image."""
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]
    return {"messages": [{"role": "user", "content": content}]}


def test_chat_answers_with_usage_and_timings(client: TestClient) -> None:
    response = client.post("/chat", json={"message": "Read it."})
    assert response.status_code == 200
    content = response.json()
    assert content["answer"] == "12 <b>34"
    assert content["usage"] == {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    assert content["timings"]["tokens_per_second"] == pytest.approx(3 / 0.4, abs=0.001)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_images_of_the_three_formats_reach_the_engine_as_they_were_sent(
    kind: str, client: TestClient, backend: ScriptedBackend
) -> None:
    data = fakes.picture(kind)
    sent = [fakes.encoded(data), fakes.data_url(data, kind.lower())]
    assert client.post("/chat", json={"message": "?", "images": sent}).status_code == 200
    images = [part.image for part in backend.requests[0].messages[0].parts if part.image]
    assert images == [fakes.encoded(data)] * 2


def test_fields_that_are_not_known_never_reach_the_engine(
    client: TestClient, backend: ScriptedBackend
) -> None:
    foreign = {"chat_template": "{{ 1 }}", "temperature": 9, "logit_bias": {"1": 100}, "seed": []}
    body = {"messages": [{"role": "user", "content": "hi", "name": "x"}], **foreign}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    sent = backend.requests[0].model_dump_json(exclude_none=True)
    assert json.loads(sent) == {
        "id": 0,
        "messages": [{"role": "user", "parts": [{"text": "hi"}]}],
        "max_new_tokens": 64,
    }


@pytest.mark.parametrize(
    ("field", "asked", "given"),
    [("max_tokens", 5, 5), ("max_completion_tokens", 7, 7), ("max_tokens", 100_000, 64)],
)
def test_a_request_may_ask_for_less_and_never_for_more(
    field: str, asked: int, given: int, client: TestClient, backend: ScriptedBackend
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], field: asked}
    client.post("/v1/chat/completions", json=body)
    assert backend.requests[0].max_new_tokens == given


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.org/x.png",
        "file:///etc/passwd",
        "ftp://example.org/x.png",
        "//example.org/x.png",
        "data:text/html;base64,aGk=",
        "data:image/svg+xml,<svg/>",
        "",
    ],
)
def test_urls_other_than_data_are_refused_and_never_fetched(url: str, client: TestClient) -> None:
    error = error_of(client.post("/v1/chat/completions", json=with_image(url)), 400)
    assert error["code"] == "image_url_not_allowed"


def test_an_http_url_among_the_images_of_chat_is_refused(client: TestClient) -> None:
    body = {"message": "?", "images": ["http://example.org/x.png"]}
    error = error_of(client.post("/chat", json=body), 400)
    assert (error["code"], error["param"]) == ("image_url_not_allowed", "images.0")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"just some text, named page.png", 400, "invalid_image"),
        (b"", 400, "invalid_image"),
        (fakes.picture("GIF"), 400, "invalid_image"),
        (b"\x89PNG\r\n\x1a\n", 400, "invalid_image"),
        (fakes.png_header(60_000, 60_000), 413, "image_too_large"),
        (fakes.png_header(2001, 2000), 413, "image_too_large"),
        (fakes.png_header(2010, 10), 400, "invalid_image"),
        (fakes.png_header(10, 10) + bytes(100_000), 413, "image_too_large"),
    ],
    ids=["text", "empty", "gif", "stub", "bomb", "pixels", "thin", "bytes"],
)
def test_bad_images_are_refused_by_their_header_in_fixed_words(
    data: bytes, status: int, code: str, client: TestClient, backend: ScriptedBackend
) -> None:
    body = {"message": "?", "images": [fakes.encoded(data)]}
    error = error_of(client.post("/chat", json=body), status)
    assert error["code"] == code
    for leak in ("PIL", "Pillow", "0x", "Error", "cannot identify", "BytesIO"):
        assert leak not in error["message"]
    assert backend.requests == []


def test_text_that_is_not_base64_is_refused(client: TestClient) -> None:
    body = {"message": "?", "images": ["data:image/png;base64,@@@@"]}
    assert error_of(client.post("/chat", json=body), 400)["message"] == (
        "an image is not valid base64"
    )


def test_too_many_images_are_refused(client: TestClient) -> None:
    body = {"message": "?", "images": [fakes.encoded(fakes.picture())] * 3}
    assert "more than 2 images" in error_of(client.post("/chat", json=body), 400)["message"]


def test_a_text_model_takes_no_image() -> None:
    app = create_app(fakes.settings(has_vision=False, mmproj=None), ScriptedBackend())
    with TestClient(app) as client:
        body = {"message": "?", "images": [fakes.encoded(fakes.picture())]}
        assert "takes no images" in error_of(client.post("/chat", json=body), 400)["message"]


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ({}, "message"),
        ({"message": 5}, "message"),
        ({"message": ""}, "message"),
        ({"message": "a", "images": "b"}, "images"),
        ({"message": "a", "images": [5]}, "images.0"),
        ({"message": "a", "max_tokens": 0}, "max_tokens"),
        ({"message": "a", "max_tokens": "7"}, "max_tokens"),
    ],
)
def test_a_wrong_field_is_named_and_its_value_is_not_repeated(
    content: dict[str, Any], param: str, client: TestClient
) -> None:
    error = error_of(client.post("/chat", json=content), 400)
    assert error["param"] == param
    assert error["message"].startswith(f"the field {param} is")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hi",
        [{"role": "tool", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    ],
)
def test_conversations_of_another_form_are_refused(messages: Any, client: TestClient) -> None:
    response = client.post("/v1/chat/completions", json={"messages": messages})
    assert error_of(response, 400)["param"].startswith("messages")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"5", b"\xff\xfe", b"[" * 100_000, b'{"message": "\\ud800"}']
)
def test_bodies_that_are_no_json_object_are_refused(body: bytes, client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    error_of(client.post("/chat", content=body, headers=headers), 400)


def test_a_body_beyond_the_limit_is_refused_without_being_read(client: TestClient) -> None:
    body = {"message": "a" * 600_000}
    assert error_of(client.post("/chat", json=body), 413)["code"] == "body_too_large"


def test_a_form_post_of_a_foreign_page_is_refused(client: TestClient) -> None:
    response = client.post(
        "/chat", content=b'{"message": "a"}', headers={"content-type": "text/plain"}
    )
    assert error_of(response, 415)["code"] == "unsupported_media_type"


def test_another_model_and_several_answers_are_refused(client: TestClient) -> None:
    messages = [{"role": "user", "content": "hi"}]
    other = client.post("/v1/chat/completions", json={"model": "gpt-9", "messages": messages})
    assert error_of(other, 404)["code"] == "model_not_found"
    several = client.post("/v1/chat/completions", json={"messages": messages, "n": 2})
    assert error_of(several, 400)["param"] == "n"


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": None, "top_logprobs": None}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 0}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_probabilities_are_made_only_where_they_are_asked_for(
    asked: dict[str, Any], given: int | None, client: TestClient, backend: ScriptedBackend
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], **asked}
    choice = client.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert backend.requests[0].top_logprobs == given
    if given is None:
        assert choice["logprobs"] is None
        return
    content = choice["logprobs"]["content"]
    assert [token["token"] for token in content] == ["12 ", "<b>", "34"]
    assert [len(token["top_logprobs"]) for token in content] == [given] * 3


@pytest.mark.parametrize(
    "asked",
    [
        {"top_logprobs": 3},
        {"top_logprobs": 0, "logprobs": False},
        {"top_logprobs": 21, "logprobs": True},
        {"top_logprobs": -1, "logprobs": True},
        {"top_logprobs": "3", "logprobs": True},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_probabilities_that_cannot_be_had_are_refused(
    stream: bool, asked: dict[str, Any], client: TestClient, backend: ScriptedBackend
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream, **asked}
    error = error_of(client.post("/v1/chat/completions", json=body), 400)
    assert error["param"] == "top_logprobs"
    assert backend.requests == []


def test_a_token_of_half_a_character_is_whole_in_its_bytes(client: TestClient) -> None:
    asked = {"logprobs": True, "top_logprobs": 1}
    body = {"messages": [{"role": "user", "content": "hi"}], **asked}
    response = client.post("/v1/chat/completions", json=body).json()
    (likely,) = response["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert likely == {"id": 0, "token": "\ufffd", "logprob": -1.0, "bytes": [0xEC, 0x95]}


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/invocations", "/v1/completions"])
def test_paths_that_are_not_promised_are_not_there(path: str, client: TestClient) -> None:
    assert error_of(client.get(path), 404)["code"] == "not_found"
    assert error_of(client.put("/chat"), 405)["code"] == "method_not_allowed"


def test_health_tells_loading_from_ready_and_from_alive(
    client: TestClient, backend: ScriptedBackend
) -> None:
    ready = {"status": "ready", "model": MODEL, "version": vlmpipe.__version__}
    assert client.get("/health").json() == ready
    backend.state = "loading"
    assert client.get("/health").status_code == 503
    assert client.get("/health/live").status_code == 200
    refused = client.post("/chat", json={"message": "a"})
    assert error_of(refused, 503)["code"] == "not_ready"
    assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Event(event="refused", text="bad_image"), "invalid_image"),
        (
            Event(event="refused", text="prompt_too_long", prompt_tokens=99, n_ctx=64),
            "context_length_exceeded",
        ),
    ],
)
def test_what_only_the_engine_can_refuse_is_a_400_too_streamed_or_not(
    refusal: Event, code: str, client: TestClient, backend: ScriptedBackend
) -> None:
    backend.refusal = refusal
    for stream in (False, True):
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream}
        assert error_of(client.post("/v1/chat/completions", json=body), 400)["code"] == code


def test_metrics_count_by_route_and_a_scanner_cannot_grow_them(client: TestClient) -> None:
    client.post("/chat", json={"message": "a", "images": [fakes.encoded(fakes.picture())]})
    for number in range(5):
        client.get(f"/scan/{number}")
    text = client.get("/metrics").text
    assert 'vlmpipe_requests_total{route="/chat",status="200"} 1.0' in text
    assert 'vlmpipe_requests_total{route="other",status="404"} 5.0' in text
    assert "vlmpipe_generated_tokens_total 4.0" in text
    assert "vlmpipe_images_total 1.0" in text
    assert "/scan/" not in text


def test_the_page_loads_nothing_from_elsewhere_and_runs_only_its_own_script(
    client: TestClient,
) -> None:
    response = client.get("/")
    assert MODEL in response.text
    assert "http://" not in response.text
    assert "https://" not in response.text
    assert "innerHTML" not in response.text
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert client.get("/").headers["content-security-policy"] != policy


def test_a_models_name_cannot_become_html() -> None:
    app = create_app(fakes.settings(model_id="<script>x</script>"), ScriptedBackend())
    with TestClient(app) as client:
        assert "<script>x" not in client.get("/").text


def test_the_gateway_leaves_pillows_own_limit_in_place() -> None:
    import vlmpipe.serving.worker  # noqa: F401

    assert Image.MAX_IMAGE_PIXELS is not None


def test_the_gateway_does_not_load_the_engine_into_itself() -> None:
    code = (
        "import sys, vlmpipe.serving.app, vlmpipe.serving.run;"
        "print([m for m in ('llama_cpp', 'torch', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
