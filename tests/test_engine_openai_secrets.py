"""Keys and passwords that nothing tells, and servers' words that do nothing to a terminal."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

import faulty_server as faulty
from faulty_server import faulty_server
from test_engine_openai_faults import ask, opened
from vlmpipe.engines.discretion import LEAST_BEGINNING, Discretion
from vlmpipe.engines.openai_server import OpenAIServer
from vlmpipe.errors import ConfigError, ToolError

KEY = "sk-Secret+0123456789/abc"
KEYS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="*"), min_size=8
)
ECHOES = {
    "refusal": faulty.refusing(400, f"bad header: Bearer {KEY}"),
    "failure": faulty.refusing(500, f"{KEY} {KEY}"),
    "cut": faulty.refusing(400, "x" * 285 + KEY),
    "page": lambda handler: faulty.send(handler, 404, f"<p>{KEY}</p>".encode()),
    "other": lambda handler: faulty.send(handler, 200, KEY.encode(), Content_Type="text/plain"),
    "stream": faulty.streaming(faulty.event({"error": {"message": f"no {KEY}"}})),
    "ending": faulty.saying("x", finish_reason=KEY),
    "nonsense": faulty.streaming(f'data: "{KEY}'.encode() + b"\xff\n\n"),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
def test_a_key_that_the_server_echoes_is_not_told(echo: faulty.Deed) -> None:
    with faulty_server(bad=[echo] * 9) as server:
        (told,) = ask(server, "bad", api_key=KEY)
    assert told.startswith("failed: ")
    assert "***" in told
    assert KEY[:LEAST_BEGINNING] not in told


def test_a_key_among_the_models_and_in_the_version_is_not_told() -> None:
    with faulty_server() as server:
        server.models = {"data": [{"id": "tiny", "owned_by": KEY}, {"id": f"of {KEY}"}]}
        assert opened(server, "tiny", api_key=KEY).version == "*** of unknown version"
        with pytest.raises(ConfigError) as caught:
            opened(server, api_key=KEY)
    assert caught.value.problems == ("tiny", "of ***")
    assert KEY not in str(caught.value)


def test_control_sequences_of_a_server_are_dropped() -> None:
    words = "\x1b[2J\x1b]0;pwned\x07bo\u202eo\x9b31m\r\nnext\x00 line\ud83d"
    broken = faulty.streaming(faulty.event({"error": {"message": words}}))
    with faulty_server(a=[faulty.refusing(400, words)], b=[broken] * 9) as server:
        told = ask(server, "a", "b")
        root = server.url.removesuffix("/v1")
    expected = "boo next line\ufffd"
    assert told == [f"failed: {root} answered 400: {expected}", f"failed: {root}: {expected}"]


@given(st.text(), KEYS, st.text())
def test_no_text_tells_a_key(before: str, key: str, after: str) -> None:
    told = Discretion(key).told(before + key + after)
    assert key not in told
    told.encode()


def test_texts_are_told_as_they_are_where_there_is_no_key() -> None:
    text = "none of it: 한글, 😀\n\ttab"
    assert Discretion(None).told(text) == text
    assert Discretion("abc").told("abc") == "abc"


@pytest.mark.parametrize(
    "address",
    [
        "http://user:hunter2@127.0.0.1:9/v1",
        "http://user:hun/ter2@127.0.0.1/v1",
        "http://user:hunter2@[::1/v1",
        "user:hunter2@host",
        "http://127.0.0.1:9/v1?key=hunter2",
        "http://127.0.0.1:9/v1#hunter2",
    ],
)
def test_an_address_with_a_password_is_refused_without_telling_it(address: str) -> None:
    with pytest.raises(ConfigError, match="--api-key-env NAME") as caught:
        OpenAIServer(address)
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "http://",
        "http://:80/v1",
        "http:///v1",
        "http://[::1/v1",
        "http:// host/v1",
        "http://host:99999/v1",
        "http://host:0/v1",
        "http://-\u00e9/v1",
        "http://\ud83d/v1",
        "http://host\n/v1",
        "localhost:8000/v1",
        "ftp://host/v1",
    ],
)
def test_what_is_no_address_is_refused_at_the_start(address: str) -> None:
    with pytest.raises(ConfigError, match="http://HOST:PORT/v1"):
        OpenAIServer(address)


@pytest.mark.parametrize(
    ("address", "root"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/v1/", "http://[::1]:8000"),
        ("https://api.example.org/openai/v1", "https://api.example.org/openai"),
    ],
)
def test_addresses_as_the_client_takes_them(address: str, root: str) -> None:
    assert OpenAIServer(address).root == root


@pytest.mark.parametrize("key", ["k\u00e9y-of-mine", "a\nb", "a b", "\ud83d", "\x00"])
def test_a_key_that_no_header_takes_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(ConfigError, match="--api-key-env NAME") as caught:
        OpenAIServer("http://127.0.0.1:9/v1", api_key=key)
    assert key not in str(caught.value)


def test_space_around_a_key_is_no_part_of_it() -> None:
    with faulty_server() as server:
        server.key = "right-key"
        assert ask(server, "a", api_key=" right-key\n") == ["said: a"]


@given(st.text(), st.text())
def test_any_address_and_key_are_taken_or_refused(address: str, key: str) -> None:
    with suppress(ConfigError):
        OpenAIServer(f"http://{address}", api_key=key)


def test_a_server_that_is_not_there_is_told_by_its_address() -> None:
    with pytest.raises(ToolError, match=r"^http://127\.0\.0\.1:9 cannot be reached: "):
        OpenAIServer("http://127.0.0.1:9/v1", retries=0).get("/v1/models")
