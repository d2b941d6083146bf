"""`vlmpipe judge` and `vlmpipe review` on a run's records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from judge_server import completion, error, fences, judge_server, pair_reply, scores_by_length
from judged_runs import ENGINES, judged_run
from vlmpipe.cli.app import run as vlmpipe
from vlmpipe.config import load_config
from vlmpipe.errors import ArtifactError, ConfigError
from vlmpipe.evaluation.judging.cases import cases_of_run, drawn

BOTH = ",".join(ENGINES)


def prefers_the_reference(body, before):
    """The answer that is the reference, letter for letter."""
    texts = fences(body)
    return pair_reply("first" if texts["FIRST_ANSWER"] == texts["REFERENCE"] else "second")


def judging(words, data, server, *more, engines=BOTH):
    settings = [f"validate.judge.base_url={server.url}", "validate.judge.model=m", *more]
    argv = ["judge", *words, *settings, "--engines", engines, "--data", str(data)]
    return [*argv, "validate.judge.max_retries=0"]


def printed(capsys):
    return json.loads(capsys.readouterr().out)


def test_two_engines_are_compared_and_the_second_time_asks_nothing(tmp_path, capsys):
    words, data = judged_run(tmp_path)
    with judge_server(prefers_the_reference) as server:
        for _ in range(2):
            assert vlmpipe([*judging(words, data, server), "--json"]) == 0
            (summary,) = printed(capsys)["judgements"]
            assert server.count == 4
    assert summary["wins"] == {"hf:base": 0, "hf:adapter": 2}
    assert (summary["identical"], summary["usage"]["asked_now"]) == (1, 0)
    assert summary["agreement"]["agree"]["value"] == 1
    assert summary["metrics"] == ["teds"]
    folder = tmp_path / "outputs" / "demo" / "judge"
    assert json.loads((folder / "hf-base_vs_hf-adapter.json").read_text()) == summary
    image = server.bodies[0]["messages"][1]["content"][0]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")


def test_the_table_says_what_was_found(tmp_path, capsys):
    words, data = judged_run(tmp_path)
    with judge_server(prefers_the_reference) as server:
        assert vlmpipe(judging(words, data, server)) == 0
    out = capsys.readouterr().out
    assert "hf:adapter" in out
    assert "3 of 3 judged" in out
    assert "the order decided 0.00" in out


@pytest.mark.parametrize("more", [[], ["validate.judge.mode=pointwise"]])
def test_one_engine_or_pointwise_gives_scores(tmp_path, capsys, more):
    words, data = judged_run(tmp_path)
    engines = BOTH if more else ENGINES[0]
    with judge_server(scores_by_length) as server:
        assert vlmpipe([*judging(words, data, server, *more, engines=engines), "--json"]) == 0
    found = printed(capsys)["judgements"]
    assert [each["mode"] for each in found] == ["pointwise"] * (2 if more else 1)
    assert found[0]["judged"] == 3


@pytest.mark.parametrize("engines", [ENGINES[0], BOTH])
def test_a_judge_that_never_answers_is_a_fault(tmp_path, capsys, engines):
    words, data = judged_run(tmp_path)
    with judge_server(lambda body, before: error(401, "bad key")) as server:
        assert vlmpipe(judging(words, data, server, engines=engines)) == 6
    assert "bad key" in capsys.readouterr().err


def test_samples_bounds_what_is_asked(tmp_path, capsys):
    words, data = judged_run(tmp_path)
    reply = '{"reason": "x", "score": 3}'
    with judge_server(lambda body, before: completion(reply)) as server:
        argv = judging(words, data, server, "validate.judge.samples=2", engines=ENGINES[0])
        assert vlmpipe(argv) == 0
        assert server.count == 2


def test_no_judge_and_odd_engines_are_told(tmp_path, capsys):
    words, data = judged_run(tmp_path)
    assert vlmpipe(["judge", *words, "--engines", BOTH, "--data", str(data)]) == 2
    assert "validate.judge.base_url" in capsys.readouterr().err
    with judge_server(prefers_the_reference) as server:
        for engines in ("", "a,b,c", "a,a"):
            assert vlmpipe(judging(words, data, server, engines=engines)) == 2
        pairwise = judging(words, data, server, "validate.judge.mode=pairwise", engines="hf:base")
        assert vlmpipe(pairwise) == 2
        assert vlmpipe(judging(words, data, server, engines="hf:base,hf:merged")) == 2
    assert "hf:merged was not evaluated" in capsys.readouterr().err


def test_samples_that_an_engine_failed_on_are_left_out_and_counted(tmp_path):
    words, data = judged_run(tmp_path, failing=["s0"])
    cases = cases_of_run(load_config((), words), ENGINES, str(data))
    assert [case.sample for case in cases] == ["s1", "s2"]
    assert cases.unanswered == {"hf:base": 1, "hf:adapter": 0}
    assert (cases.count, cases.identical, cases.differing().count) == (2, 1, 1)


def test_a_sample_that_changed_since_is_refused(tmp_path):
    words, data = judged_run(tmp_path)
    (data.parent / "0.png").write_bytes((data.parent / "1.png").read_bytes())
    with pytest.raises(ArtifactError, match="'s0' is not, or no longer"):
        list(cases_of_run(load_config((), words), ENGINES, str(data)))


def test_other_data_than_was_evaluated_is_told(tmp_path):
    words, data = judged_run(tmp_path)
    other = data.rename(data.with_name("other.jsonl"))
    with pytest.raises(ConfigError, match=r"no sample of '.*other\.jsonl"):
        cases_of_run(load_config((), words), ENGINES, str(other))


def test_drawn_samples_do_not_depend_on_their_order():
    names = [f"s{number}" for number in range(50)]
    assert set(drawn(names, 7)) == set(drawn(names[::-1], 7))
    assert drawn(names, 7) != names[:7]
    assert drawn(names, None) == names


def test_a_sheet_goes_out_and_its_verdicts_come_back(tmp_path, capsys):
    words, data = judged_run(tmp_path)
    sheet = tmp_path / "sheet.html"
    argv = ["review", "export", *words, "--engines", BOTH, "-o", str(sheet), "--data", str(data)]
    assert vlmpipe([*argv, "--json"]) == 0
    told = printed(capsys)
    assert (told["items"], told["identical"]) == (2, 1)
    assert "data:image/" in sheet.read_text()
    items = json.loads(Path(told["key"]).read_text())["items"]
    answers = [
        {"item": name, "choice": "1" if item["first"] == "hf:adapter" else "2", "seconds": 1}
        for name, item in items.items()
    ]
    content = {"format": "vlmpipe-review", "version": 1, "sheet": told["sheet"]}
    path = tmp_path / "review-ann.json"
    path.write_text(json.dumps({**content, "rater": "ann", "answers": answers}))
    assert vlmpipe(["review", "import", str(path), *words, "--json"]) == 0
    found = printed(capsys)
    assert found["outcomes"] == {"hf:base": 0, "hf:adapter": 2, "tie": 0}
    assert Path(found["written"]).is_file()
    assert vlmpipe(["review", "import", str(path), *words]) == 0
    assert "ann" in capsys.readouterr().out
    assert vlmpipe(["review", "import", str(tmp_path / "no.json"), *words]) == 4


def test_fewer_samples_can_be_reviewed_and_two_engines_are_needed(tmp_path, capsys):
    words, data = judged_run(tmp_path)
    argv = ["review", "export", *words, "-o", str(tmp_path / "s.html"), "--data", str(data)]
    assert vlmpipe([*argv, "--engines", BOTH, "--samples", "1", "--json"]) == 0
    assert printed(capsys)["items"] == 1
    assert vlmpipe([*argv, "--engines", "hf:base"]) == 2


def test_a_setting_longer_than_a_file_s_name_is_a_setting(tmp_path, capsys):
    words, _ = judged_run(tmp_path)
    assert vlmpipe(["review", "import", *words, f"run.seed={'9' * 300}x"]) == 2
    assert "run.seed" in capsys.readouterr().err
