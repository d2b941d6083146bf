"""What a judge is given of base and tuned by `validate`."""

from __future__ import annotations

import json
from dataclasses import replace

from evaluation_fakes import colour_sample, compared
from judge_server import honest, judge_server
from vlmpipe.config.judge import JudgeConfig
from vlmpipe.evaluation.validation.judged import GivenSamples, ask_judge, judged_lines

COLOURS = {"#ff0000": "red", "#00ff00": "green", "#0000ff": "blue"}


def asked(folder, change):
    """A judge's verdicts on base and tuned; `change` is made of base's records."""
    samples = [colour_sample(name, colour, name) for colour, name in COLOURS.items()]
    comparison = compared(COLOURS, {"train": [], "heldout": samples})
    base = change(comparison.records["base"])
    comparison = replace(comparison, records={**comparison.records, "base": base})
    with judge_server(honest) as server:
        config = JudgeConfig(base_url=server.url, model="judge", max_retries=0)
        return ask_judge(config, comparison, GivenSamples("heldout", samples), folder)


def verdicts(folder):
    path = folder / "judge" / "hf-base_vs_hf-adapter.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_base_and_tuned_are_paired_by_sample_in_whatever_order_they_answered(tmp_path):
    def marked(records):
        return [each.model_copy(update={"prediction": f"? {each.sample}"}) for each in records]

    in_order = asked(tmp_path / "a", marked)
    turned = asked(tmp_path / "b", lambda records: marked(records)[::-1])
    assert in_order.cases == turned.cases == 3
    digests = [[row["answers"] for row in verdicts(tmp_path / each)] for each in "ab"]
    assert digests[0] == digests[1]


def test_a_sample_that_one_of_them_did_not_answer_is_left_out(tmp_path):
    found = asked(tmp_path, lambda records: records[1:])
    assert found.wins == {"hf:base": 0, "hf:adapter": 2}
    assert [row["sample"] for row in verdicts(tmp_path)] == ["green", "blue"]
    assert asked(tmp_path, lambda records: []) is None


def test_an_interval_of_one_point_is_not_told(tmp_path):
    (line,) = judged_lines(asked(tmp_path, lambda records: records))
    assert line.endswith("win rate 1.00")
