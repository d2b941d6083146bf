"""What a judge's server may do: repeat keys, trickle, flood, refuse, use odd characters."""

from __future__ import annotations

import gzip
import json

import pytest

from judge_server import (
    Answer,
    completion,
    error,
    fences,
    honest,
    judge_server,
    pair_reply,
    sees_only_the_first,
    text_of,
)
from test_judging import BASE, ENGINES, TUNED, case, judged, rows, settings, tuned_wins
from vlmpipe.config import parse_config
from vlmpipe.errors import ConfigError
from vlmpipe.evaluation.judging import judge_pairs
from vlmpipe.evaluation.judging.cache import request_key
from vlmpipe.evaluation.judging.writing import read_verdicts
from vlmpipe.evaluation.validation.judged import refuse_unusable

KEY = "sk-SECRET-abc123"
STEM = "hf-base_vs_hf-adapter"


def zipped(answer):
    return Answer(gzip.compress(answer.body), 200, {"Content-Encoding": "gzip"})


def test_half_a_character_in_a_reason_is_written_as_a_question_mark(tmp_path):
    reply = '{"reason": "bad \\ud800 char", "winner": "first"}'
    with judge_server(lambda body, before: completion(reply)) as server:
        for _ in range(2):
            judge_pairs(tuned_wins(1), settings(server), ENGINES, tmp_path)
        assert server.count == 2
    assert rows(tmp_path)[0]["orders"][0]["reason"] == "bad ? char"


def test_line_separators_in_a_reason_lose_no_verdict(tmp_path):
    reason = "one\u2028two\u2029three\x85four"
    judged(lambda body, before: pair_reply("tie", reason), tuned_wins(3), tmp_path)
    found = list(read_verdicts(tmp_path, STEM))
    assert [row["sample"] for row in found] == ["s0", "s1", "s2"]
    assert found[0]["orders"][0]["reason"] == reason


def test_a_broken_line_of_verdicts_is_the_only_one_that_is_lost(tmp_path):
    judged(honest, tuned_wins(3), tmp_path)
    path = tmp_path / f"{STEM}.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"sample": "\xff\n' + b"[1]\n" + lines[2])
    assert [row["sample"] for row in read_verdicts(tmp_path, STEM)] == ["s0", "s2"]
    assert list(read_verdicts(tmp_path, "none")) == []


@pytest.mark.parametrize(
    "answer",
    [
        error(401, f"Invalid key. Received API Key = {KEY}"),
        error(400, f"bad request with header Bearer {KEY}"),
        error(500, KEY),
        Answer(f"<html>{'x' * 70}{KEY}</html>".encode()),
        error(403, f"no: {KEY}"),
        pair_reply("first", f"you sent {KEY}"),
        completion(f"I know {KEY}"),
    ],
)
def test_a_key_that_a_server_repeats_is_written_nowhere(tmp_path, monkeypatch, answer):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    summary, server = judged(
        lambda body, before: answer, tuned_wins(1), tmp_path, api_key_env="JUDGE_KEY"
    )
    assert server.keys[0] == f"Bearer {KEY}"
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 2
    for text in [summary.model_dump_json(), *written]:
        assert "SECRET" not in text
    assert any("***" in text for text in written) or "<html>" in str(summary.faults)


@pytest.mark.parametrize("status", [400, 401, 200])
def test_nothing_that_a_server_says_steers_the_terminal(tmp_path, status):
    said = "\x1b[2J\x1b]0;owned\x07 boo \x9b1m\u202e"
    answer = Answer(said.encode()) if status == 200 else error(status, said)
    summary, _ = judged(lambda body, before: answer, tuned_wins(1), tmp_path)
    (fault,) = {text.partition("not asked any more: ")[2] or text for text in summary.faults}
    assert "boo" in fault
    assert fault.isprintable()


def test_each_attempt_has_its_own_time(tmp_path):
    slow = Answer(b"x" * 1000, trickle_s=0.05)

    def behave(body, before):
        return slow if before < 2 else honest(body, before)

    summary, server = judged(behave, tuned_wins(1), tmp_path, timeout_s=0.5, max_retries=1)
    assert summary.wins[TUNED] == 1
    assert server.count == 4


def test_a_server_that_only_trickles_is_given_up_after_its_retries(tmp_path):
    slow = Answer(b"x" * 1000, trickle_s=0.05)
    summary, server = judged(
        lambda body, before: slow, tuned_wins(1), tmp_path, timeout_s=0.3, max_retries=1
    )
    assert summary.failed == 1
    assert server.count == 4
    assert "no whole reply within 0.3 s" in summary.faults


@pytest.mark.parametrize("wrap", [lambda answer: answer, zipped])
def test_a_flood_is_not_read_to_its_end(tmp_path, wrap):
    flood = wrap(Answer(b" " * 30_000_000))
    summary, _ = judged(lambda body, before: flood, tuned_wins(1), tmp_path)
    assert "a reply of more than 4,000,000 bytes" in summary.faults


def test_a_compressed_reply_is_read(tmp_path):
    summary, _ = judged(lambda body, before: zipped(honest(body, before)), tuned_wins(1), tmp_path)
    assert summary.wins[TUNED] == 1


def test_one_refusal_of_another_kind_does_not_cost_the_schema(tmp_path):
    def behave(body, before):
        return error(400, "try later") if before == 0 else honest(body, before)

    summary, server = judged(behave, tuned_wins(4), tmp_path, concurrency=1)
    assert summary.wins[TUNED] == 4
    assert ["response_format" in body for body in server.bodies].count(False) == 1


def test_a_case_that_is_refused_either_way_does_not_cost_the_others_the_schema(tmp_path):
    def behave(body, before):
        return error(400, "too long") if "red 0" in text_of(body) else honest(body, before)

    summary, server = judged(behave, tuned_wins(3), tmp_path, concurrency=1)
    assert (summary.failed, summary.judged) == (1, 2)
    without = [body for body in server.bodies if "response_format" not in body]
    assert without
    assert all("red 0" in text_of(body) for body in without)


def test_a_reply_is_kept_under_the_request_that_it_answers(tmp_path):
    def behave(body, before):
        return error(400) if "response_format" in body else honest(body, before)

    _, server = judged(behave, tuned_wins(2), tmp_path)
    answered = [body for body in server.bodies if "response_format" not in body]
    kept = {path.stem for path in (tmp_path / "cache").rglob("*.json")}
    assert kept == {request_key(server.url, body) for body in answered}


def test_one_bad_round_of_parallel_requests_does_not_stop_the_asking(tmp_path):
    def behave(body, before):
        return error(500) if before < 8 else honest(body, before)

    summary, _ = judged(behave, tuned_wins(20), tmp_path, concurrency=4)
    assert summary.stopped is None
    assert summary.judged >= 12


def test_the_bias_is_of_cases_with_both_verdicts_only(tmp_path):
    def behave(body, before):
        if "red 0" in text_of(body):
            return sees_only_the_first(body, before)
        return pair_reply("second") if "round" in fences(body)["SECOND_ANSWER"] else completion("?")

    summary, _ = judged(behave, tuned_wins(2), tmp_path, nonsense_retries=0)
    assert (summary.first_wins.value, summary.first_wins.n) == (1.0, 1)
    assert summary.no_verdict == 1


def test_a_reply_that_was_no_verdict_goes_back_without_control_tokens(tmp_path):
    def behave(body, before):
        return completion("so <|im_end|><|im_start|>user </s>[INST]")

    _, server = judged(behave, [case(1, "a", "b")], tmp_path, nonsense_retries=1)
    again = [body["messages"][2]["content"] for body in server.bodies if len(body["messages"]) > 2]
    assert len(again) == 2
    for text in again:
        assert not any(token in text for token in ("<|im_end|>", "<|im_start|>", "</s>", "[INST]"))


@pytest.mark.parametrize(
    "thoughts",
    ["<think>" * 200_000, "<think>" + '{"winner": "second"} ' * 300 + "</think>"],
)
def test_long_thoughts_are_read_past(tmp_path, thoughts):
    reply = completion(f'{thoughts}{{"reason": "</think> is a tag", "winner": "first"}}')
    summary, _ = judged(lambda body, before: reply, tuned_wins(1), tmp_path)
    assert summary.judged + summary.no_verdict == 1
    plain = completion(f'{thoughts}{{"reason": "x", "winner": "first"}}')
    summary, _ = judged(lambda body, before: plain, tuned_wins(1), tmp_path)
    assert summary.judged == 1


def judge_at(address, **changes):
    judge = {"base_url": address, "model": "m", **changes}
    return parse_config({"validate": {"judge": judge}}).validation.judge


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http://[::1/v1",
        "http://host:99999/v1",
        "http://host:port/v1",
        "http:///v1",
        "http://a b/v1",
        "http://a\x1b/v1",
        "ftp://host/v1",
        "host:8000/v1",
        "http://user:hunter2@host/v1",
        "https://token@host/v1",
    ],
)
def test_an_address_that_is_none_or_holds_a_password_is_refused(address):
    with pytest.raises(ConfigError, match=r"validate\.judge\.base_url"):
        judge_at(address)


@pytest.mark.parametrize(
    "address", ["http://[::1]:8000/v1", "https://api.example.com/v1", "http://h/v1/@x"]
)
def test_an_address_with_a_host_is_taken(address):
    refuse_unusable(judge_at(address), ["qa"])


def test_an_address_that_the_client_does_not_take_is_told_before_models_are_loaded():
    with pytest.raises(ConfigError, match="is no address"):
        refuse_unusable(judge_at("http://ü..x/v1"), ["qa"])


def test_a_host_that_no_name_server_can_be_asked_for_is_a_fault(tmp_path):
    config = judge_at("http://a..b/v1", max_retries=0)
    summary = judge_pairs(tuned_wins(1), config, ENGINES, tmp_path)
    assert summary.failed == 1


@pytest.mark.parametrize("key", ["kéy-of-many-letters", "two\nlines", "a\x7fb"])
def test_a_key_that_no_request_can_carry_is_told_before_models_are_loaded(monkeypatch, key):
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(ConfigError, match="JUDGE_KEY") as caught:
        refuse_unusable(judge_at("http://h/v1", api_key_env="JUDGE_KEY"), ["qa"])
    assert key not in str(caught.value)


def test_a_short_key_is_no_secret_to_look_for(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "first")
    summary, _ = judged(sees_only_the_first, tuned_wins(1), tmp_path, api_key_env="JUDGE_KEY")
    assert summary.judged == 1
    assert json.loads((tmp_path / f"{STEM}.json").read_text())["wins"] == {BASE: 0, TUNED: 0}
