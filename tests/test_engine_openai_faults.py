"""Servers that are busy, ill, slow, endless, dead or no servers of this kind at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

import faulty_server as faulty
from export_models import contract_of
from faulty_server import FaultyServer, faulty_server
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.answering import answers
from vlmpipe.engines.base import Completion, Failure
from vlmpipe.engines.openai import OpenAIEngine
from vlmpipe.engines.patience import MAX_BACKOFF_S
from vlmpipe.errors import ArtifactError, ConfigError, StageError, ToolError

LIMIT = 16
THOUGHT = faulty.event({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]})


def opened(server: FaultyServer, model: str | None = None, **options: Any) -> OpenAIEngine:
    settings = {"retries": 2, "backoff_s": 0.001, "timeout_s": 20.0, **options}
    return OpenAIEngine(server.url, model, contract_of("qwen2_5_vl"), **settings)


def asking(*texts: str) -> list[list[Message]]:
    return [[Message("user", (text,))] for text in texts]


def ask(server: FaultyServer, *texts: str, **options: Any) -> list[str]:
    """What becomes of each text: an answer, or `failed: ` and why."""
    with closing(opened(server, **options)) as engine:
        found = answers(engine, asking(*texts), max_new_tokens=LIMIT)
        return [said(each) for each in found]


def said(answer: Completion | Failure) -> str:
    return answer.text if isinstance(answer, Completion) else f"failed: {answer.message}"


def test_a_plain_answer_with_its_counts_and_times() -> None:
    with faulty_server() as server, closing(opened(server)) as engine:
        found = engine.complete(asking("hello there")[0], max_new_tokens=LIMIT)
    assert (found.text, found.finish_reason) == ("said: hello there", "stop")
    assert (found.prompt_tokens, found.completion_tokens) == (7, 4)
    assert 0 < found.first_token_seconds <= found.seconds
    assert (engine.name, engine.version) == ("openai:tiny", "somebody of unknown version")
    assert (engine.held_by, engine.can_score) == ("nothing", False)


def test_requests_are_greedy_and_streamed() -> None:
    with faulty_server() as server:
        ask(server, "hello")
    (body,) = server.asked
    assert body["temperature"] == 0
    assert body["seed"] == 0
    assert body["max_tokens"] == LIMIT
    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "trouble",
    [
        faulty.refusing(429, Retry_After="0"),
        faulty.refusing(500),
        faulty.refusing(503),
        faulty.page(502),
        faulty.drop,
        faulty.drop_half_way,
        faulty.streaming(faulty.piece("half")),
        faulty.streaming(faulty.piece("half"), faulty.event({"error": {"message": "lost"}})),
    ],
    ids=["429", "500", "503", "proxy", "drop", "half an event", "no end", "error in stream"],
)
def test_trouble_that_may_pass_is_waited_for(trouble: faulty.Deed) -> None:
    with faulty_server(hello=[trouble, trouble]) as server:
        assert ask(server, "hello") == ["said: hello"]
        assert server.texts() == ["hello"] * 3


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (faulty.refusing(429, "too many requests"), "answered 429: too many requests"),
        (faulty.refusing(500, "out of memory"), "answered 500: out of memory"),
        (faulty.page(502), "answered 502: <html><body><h1>Bad gateway"),
        (faulty.drop, "broke the connection off"),
        (faulty.streaming(faulty.piece("half")), "broke off after 1 pieces of text"),
        (faulty.streaming(faulty.event({"error": {"message": "lost"}})), "lost"),
    ],
    ids=["429", "500", "proxy", "drop", "no end", "error in stream"],
)
def test_trouble_that_does_not_pass_fails_its_sample_alone(
    trouble: faulty.Deed, words: str
) -> None:
    with faulty_server(bad=[trouble] * 9) as server:
        first, bad, last = ask(server, "a", "bad", "b")
        assert (first, last) == ("said: a", "said: b")
        assert bad.startswith("failed: ")
        assert words in bad
        assert server.texts().count("bad") == 3


@pytest.mark.parametrize(
    ("nonsense", "words"),
    [
        (faulty.streaming(b'data: {"choices": "\xff\xfe"}\n\n'), "nonsense: UnicodeDecodeError"),
        (faulty.streaming(b"data: {no json\n\n"), "nonsense: JSONDecodeError"),
        (faulty.streaming(faulty.event({"choices": [{}]}), faulty.DONE), "nonsense"),
        (faulty.streaming(faulty.event({"choices": []}), faulty.DONE), "without any choice"),
        (faulty.page(200), "answered text/html and no stream"),
        (faulty.streaming(THOUGHT, faulty.piece("42", "stop"), faulty.DONE), "cuts thoughts out"),
        (faulty.saying("x", finish_reason="content_filter"), "'content_filter'"),
        (faulty.refusing(400, "at most 1 image"), "answered 400: at most 1 image"),
        (faulty.refusing(404, "no model tiny"), "answered 404: no model tiny"),
    ],
    ids=["utf-8", "json", "no delta", "no choices", "html", "thoughts", "filtered", "400", "404"],
)
def test_what_would_be_the_same_again_is_not_asked_again(nonsense: faulty.Deed, words: str) -> None:
    with faulty_server(bad=[nonsense]) as server:
        first, bad, last = ask(server, "a", "bad", "b")
        assert (first, last) == ("said: a", "said: b")
        assert words in bad
        assert server.texts().count("bad") == 1


def test_an_answer_without_an_end_is_cut_at_the_limit() -> None:
    with faulty_server(on=[faulty.endless(faulty.piece("la "))]) as server:
        with closing(opened(server)) as engine:
            found = engine.complete(asking("on")[0], max_new_tokens=LIMIT)
        assert found.text == "la " * LIMIT
        assert found.finish_reason == "length"
        assert found.completion_tokens == LIMIT


@pytest.mark.parametrize("part", [b": still here\n\n", b"data: "], ids=["comments", "one line"])
def test_a_stream_that_says_nothing_for_ever_ends_in_time(part: bytes) -> None:
    with faulty_server(on=[faulty.endless(part)]) as server:
        found = ask(server, "on", "b", timeout_s=0.3)
        late = f"failed: {server.url.removesuffix('/v1')}: no whole reply within 0.3 s"
    assert found == [late, "said: b"]


def test_a_request_that_hangs_fails_alone_and_is_not_repeated() -> None:
    with faulty_server(bad=[faulty.hang] * 3) as server:
        bad, good = ask(server, "bad", "b", timeout_s=0.3)
        assert server.texts().count("bad") == 1
    assert "no whole reply within 0.3 s" in bad
    assert good == "said: b"


def test_a_reply_of_too_many_bytes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmpipe.engines.openai_transport.MAX_REPLY_BYTES", 1 << 20)
    flood = faulty.streaming(*[faulty.piece("x" * (300 << 10))] * 4)
    with faulty_server(bad=[flood]) as server:
        bad, good = ask(server, "bad", "b")
    assert (bad, good) == ("failed: the reply is longer than 1 MiB", "said: b")


def test_a_prediction_of_a_megabyte_arrives_whole() -> None:
    with faulty_server(big=[faulty.saying("한" * (1 << 20))]) as server:
        assert ask(server, "big") == ["한" * (1 << 20)]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (("\ud83d", "\ude00"), "\U0001f600"),
        (("a\ud83d", "b"), "a\ufffdb"),
        (("\ufeff한", "\ude00"), "\ufeff한\ufffd"),
    ],
    ids=["parted", "first half alone", "second half alone"],
)
def test_characters_in_two_halves_are_joined(pieces: tuple[str, str], text: str) -> None:
    events = [faulty.piece(each) for each in pieces]
    with faulty_server(a=[faulty.streaming(*events, faulty.piece(None, "stop"))]) as server:
        assert ask(server, "a") == [text]


def test_a_server_that_dies_in_mid_run_fails_the_rest_in_the_same_words() -> None:
    with faulty_server() as server:

        def die(handler: faulty.Handler) -> None:
            server.die()
            faulty.drop_half_way(handler)

        server.deeds["c"] = [die]
        texts = ["a", "b", "c", *(f"t{n}" for n in range(40))]
        found = ask(server, *texts, concurrency=1, retries=9)
    assert found[:2] == ["said: a", "said: b"]
    assert all("cannot be reached" in each for each in found[2:])
    assert len(set(found[2:])) == 1


def test_waits_double_up_to_a_bound_and_the_servers_own_word_goes_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    busy = [faulty.refusing(503)] * 6 + [faulty.refusing(429, Retry_After="7")]
    busy += [faulty.refusing(429, Retry_After="9999"), faulty.refusing(429, Retry_After="soon")]
    with (
        faulty_server(hello=busy) as server,
        closing(opened(server, retries=9, backoff_s=0.5)) as engine,
    ):
        monkeypatch.setattr(engine._server._given_up, "wait", waits.append)
        engine.complete(asking("hello")[0], max_new_tokens=LIMIT)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 7.0, 60.0, MAX_BACKOFF_S]


def test_answers_come_in_order_from_requests_that_are_in_flight_together() -> None:
    texts = [f"t{number}" for number in range(12)]
    together = threading.Barrier(3, timeout=30)

    def meet(handler: faulty.Handler) -> None:
        together.wait()
        faulty.saying("met")(handler)

    with faulty_server(**{text: [meet] for text in texts}) as server:
        assert ask(server, *texts, concurrency=3) == ["met"] * 12
        assert server.most_at_once == 3
    with faulty_server() as server:
        assert ask(server, *texts, concurrency=5) == [f"said: {text}" for text in texts]


def test_conversations_are_not_taken_far_ahead() -> None:
    taken: list[int] = []

    def many() -> Iterator[Sequence[Message]]:
        for number in range(1000):
            taken.append(number)
            yield asking(str(number))[0]

    with faulty_server() as server, closing(opened(server, concurrency=2)) as engine:
        found = engine.complete_all(many(), max_new_tokens=LIMIT)
        for _ in range(10):
            next(found)
        assert len(taken) <= 10 + 2 * 2
        found.close()  # type: ignore[attr-defined]
        assert len(taken) <= 10 + 2 * 2


def test_a_key_that_is_refused_is_told_at_the_start_and_never_shown() -> None:
    with faulty_server() as server:
        server.key = "right"
        with pytest.raises(ConfigError, match="does not take the API key") as caught:
            opened(server, api_key="wrong-key")
        assert "wrong-key" not in str(caught.value)
        assert ask(server, "a", api_key="right") == ["said: a"]


def test_a_key_in_the_environment_goes_to_nobody_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with faulty_server() as server:
        ask(server, "a")
    assert "secret" not in str(server.headers)


def test_the_model_is_asked_of_the_server_where_it_has_one() -> None:
    with faulty_server() as server:
        ask(server, "a")
        assert server.asked[0]["model"] == "tiny"
        with pytest.raises(ConfigError, match="has no model 'other'") as wrong:
            opened(server, "other")
        assert wrong.value.problems == ("tiny",)
        server.models = {"data": [{"id": "one"}, {"id": "two"}]}
        with pytest.raises(ConfigError, match="has 2 models") as several:
            opened(server)
        assert several.value.problems == ("one", "two")
        with closing(opened(server, "two")) as engine:
            assert engine.name == "openai:two"


@pytest.mark.parametrize("answer", [faulty.page(200), faulty.page(404)])
def test_an_address_of_something_else_is_told_at_the_start(answer: faulty.Deed) -> None:
    with faulty_server() as server:
        server.models = answer
        with pytest.raises(ToolError, match="answered"):
            opened(server)


@pytest.mark.parametrize("models", [{"data": 7}, {"data": [{}]}, {}])
def test_a_list_of_models_that_makes_no_sense_is_refused(models: Any) -> None:
    with faulty_server() as server:
        server.models = models
        with pytest.raises(ToolError, match="nonsense"):
            opened(server)


def test_likelihoods_are_refused_where_they_are_not_to_be_had() -> None:
    with (
        faulty_server() as server,
        closing(opened(server)) as engine,
        pytest.raises(StageError, match="cannot say"),
    ):
        engine.score(asking("a")[0], "b")


def test_a_gateway_that_counts_other_tokens_is_refused() -> None:
    from vlmpipe.encoding.contract import RenderedCase

    stated = {"text": RenderedCase.of([1, 2, 3]), "several turns": RenderedCase.of([1] * 7)}
    contract = contract_of("qwen3").model_copy(update={"rendered": stated})

    def count(handler: faulty.Handler) -> None:
        counts = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
        faulty.send_json(handler, {"choices": [], "usage": counts})

    with faulty_server() as server:
        server.models = {"data": [{"id": "tiny", "owned_by": "vlmpipe"}]}
        server.deeds.default_factory = lambda: [count]
        with pytest.raises(ArtifactError) as caught:
            OpenAIEngine(server.url, None, contract)
    assert caught.value.problems == ("text: the prompt takes 7 tokens, the contract states 3",)
