"""Verdicts, lineage, phases and judged answers, drawn from what the stages and commands left."""

from __future__ import annotations

import json
import re

import pytest

from model_folders import contract_of
from report_fakes import JUDGEMENT, publish, publish_validate, publish_whole_run, whole_evaluation
from test_report import Page
from vlmpipe.evaluation.published import published_stages
from vlmpipe.evaluation.report import write_report
from vlmpipe.evaluation.report.figures import bounds_of
from vlmpipe.evaluation.report.lineage import lineage_of
from vlmpipe.evaluation.report.numbers import between, chance, signed
from vlmpipe.evaluation.report.verdicts import verdict_rows
from vlmpipe.models.families import FAMILIES


@pytest.fixture
def run(tmp_path):
    return tmp_path / "outputs" / "demo"


def lineage(run):
    return lineage_of(published_stages(run))


def test_verdicts_are_told_one_by_one_failed_ones_first(run):
    rows = verdict_rows(JUDGEMENT)
    assert [(row.name, row.word) for row in rows] == [
        ("thresholds", "failed"),
        ("over-fit", "held"),
        ("forgetting", "not judged"),
    ]
    publish_validate(run, judgement=JUDGEMENT)
    text = Page(write_report(run)).text
    assert "failed thresholds heldout/teds/tuned is 0.74" in text
    assert "not judged forgetting no general probe was asked" in text


def test_a_rule_is_not_named_twice():
    (row,) = verdict_rows({"verdicts": [{"name": "overfit", "sentence": "over-fit: by 0.3"}]})
    assert (row.name, row.sentence, row.word) == ("over-fit", "by 0.3", "not judged")


def test_older_results_have_no_verdicts_to_tell(run):
    publish_validate(run)
    assert "Verdicts" not in Page(write_report(run)).text


def test_base_and_tuned_have_intervals_and_a_p_value(run):
    publish_validate(run, judgement=JUDGEMENT)
    page = Page(write_report(run))
    assert "TEDS 0.080 [0.050, 0.110] 0.740 [0.650, 0.820] +0.660 p < 0.001" in page.text
    assert '<span class="value same">0.250</span>' in page.source, "chance explains exact match"
    assert '<span class="value better">0.740</span>' in page.source


def test_figures_first_seen_say_over_how_many_samples(run):
    publish_validate(run, judgement={"splits": {"heldout": 64, "train": 1}})
    text = Page(write_report(run)).text
    assert "TEDS, held-out 0.740 base 0.080, 64 samples" in text


def test_a_metric_counts_the_samples_of_its_own_task(run):
    tasks = {"heldout": {"table": 40, "chart": 24}}
    publish_validate(run, judgement={"splits": {"heldout": 64}, "tasks": tasks})
    assert "base 0.080, 40 samples" in Page(write_report(run)).text


def test_the_table_of_files_says_by_what_samples_its_figures_are(run):
    publish_whole_run(run)
    text = Page(write_report(run)).text
    assert re.search(r"TEDS and KL divergence over the \d+ probes of the ladder below", text)


def test_phases_are_compared(run):
    publish_whole_run(run)
    page = Page(write_report(run))
    assert "What each phase bought 8 held-out samples, 4 of them answered" in page.text
    assert "small 20 1.600 −1.500 [−1.800, −1.200] p 0.008 0.400" in page.text
    assert '<span class="value better">−1.500</span>' in page.source
    assert '<span class="value same">+0.100</span>' in page.source


def test_forgetting_is_told_by_kind(run):
    publish_validate(run, judgement=JUDGEMENT)
    text = Page(write_report(run)).text
    assert "arithmetic 6 1.200 1.900" in text
    assert "poetry nothing that the base knows 6 8.100 8" in text
    assert "Change over what the base knows: +0.700 nats a token [0.500, 0.900], p 0.03." in text


def test_judges_and_people_are_shown(run):
    publish_whole_run(run)
    whole_evaluation(run)
    text = Page(write_report(run)).text
    assert "some-judge hf:adapter hf:base 11 of 12 9 1 1 0.864 [0.764, 0.964]" in text
    assert "2 people hf:adapter llama_cpp:q4_k_m 8 3 3 2 0.560" in text
    assert "kappa of ann and bob 0.61" in text
    assert "some-judge hf:adapter 12 4.31 [4.21, 4.41] 0.72" in text
    assert "Stopped: the endpoint refused 3 times in a row" in text


@pytest.mark.parametrize("content", ["{", "[]", '{"engines": 3}', '{"engines": ["a", "b"]}', "7"])
def test_a_judgement_that_is_none_is_left_out(run, content):
    publish(run, "check")
    for folder in ("judge", "review"):
        (run / folder).mkdir()
        (run / folder / "x.json").write_text(content)
    assert "Judged answers" not in Page(write_report(run)).text


def published(run, served="b" * 64, taken="a" * 64):
    """From base model to service, each stage with one file of known digest."""
    model = json.dumps({"id": "some/model", "revision": "r1", "parameters": 3_000_000_000})
    data = {"train": {"samples": 30, "tasks": {"table": 30}}, "heldout": {"samples": 4}}
    publish(run, "setup", files={"model.json": model, "data/data.json": json.dumps(data)})
    adapter = publish(run, "train", files={"adapter/adapter_model.safetensors": b"weights"})
    digest = (
        published_stages(run)["train"].manifest.outputs["adapter/adapter_model.safetensors"].sha256
    )
    files = {"adapter/adapter_model.safetensors": digest if taken is None else taken}
    publish(
        run,
        "merge",
        files={"merge_info.json": json.dumps({"digests": {"merged": "e" * 64}})},
        inputs={"train": {"version": "v001", "files": files}},
    )
    artifacts = {"quants": {"q8_0": "demo-q8_0.gguf"}, "mmproj": "demo-mmproj.gguf"}
    publish(
        run,
        "convert",
        files={"artifacts.json": json.dumps(artifacts), "gguf/demo-q8_0.gguf": b"gguf" * 1000},
    )
    made = published_stages(run)["convert"].manifest.outputs["gguf/demo-q8_0.gguf"].sha256
    service = {
        "gguf": "model/demo-q8_0.gguf",
        "files": {"model/demo-q8_0.gguf": {"sha256": made if served is None else served}},
    }
    publish(
        run,
        "deploy",
        files={
            "deploy.json": json.dumps({"model_id": "demo-q8_0", "quant": "q8_0"}),
            "bundle/service.json": json.dumps(service),
        },
        facts={"libraries": {"llama-cpp-python": "0.3.36"}},
    )
    return adapter, digest, made


def test_lineage_goes_from_base_and_data_to_the_service(run):
    _, adapter, gguf = published(run, served=None, taken=None)
    steps = lineage(run)
    assert [[card.title for card in step.artifacts] for step in steps] == [
        ["base model", "data"],
        ["adapter"],
        ["merged weights"],
        ["GGUF", "vision GGUF"],
        ["service"],
    ]
    assert steps[1].artifacts[0].digest == adapter[:12]
    assert steps[2].artifacts[0].digest == "e" * 12
    quant = steps[3].artifacts[0]
    assert (quant.name, quant.size_bytes, quant.digest, quant.chosen) == (
        "q8_0",
        4000,
        gguf[:12],
        True,
    )
    assert steps[4].artifacts[0].digest == gguf[:12]
    assert steps[4].versions == "llama-cpp-python 0.3.36"
    assert not any(step.faults for step in steps)
    text = Page(write_report(run)).text
    assert "Each stage took the very files" in text
    assert "3.0 G parameters" in text


def test_the_contract_is_named_as_records_name_it(run):
    contract = contract_of(FAMILIES["qwen2_5_vl"])
    publish(run, "train", files={"preprocess_contract.json": contract.model_dump_json()})
    (step,) = lineage(run)
    assert [(card.title, card.digest) for card in step.artifacts] == [
        ("preprocess contract", contract.digest[:12])
    ]


def test_a_file_that_is_not_the_one_taken_is_named(run):
    published(run, served=None)
    assert lineage(run)[2].faults == [
        "train's adapter/adapter_model.safetensors is another one now"
    ]
    assert "Each stage took the very files" not in Page(write_report(run)).text


def test_weights_that_convert_did_not_make_are_named(run):
    published(run, taken=None)
    fault = "the weights in the bundle, bbbbbbbbbbbb, are none of convert's files"
    assert lineage(run)[4].faults == [fault]
    assert fault in Page(write_report(run)).text


def test_a_run_that_has_only_begun_has_a_lineage_as_far_as_it_goes(run):
    publish(run, "check")
    assert lineage(run) == []
    publish(run, "setup", files={"model.json": json.dumps({"id": "m"})})
    assert [step.made_by for step in lineage(run)] == ["1 setup · v001"]


@pytest.mark.parametrize(
    "value,shown",
    [(0.9634, "+0.963"), (-0.0123, "−0.012"), (0.00026, "+0.0003"), (0.0, "0"), (None, "–"),
     (-12.34, "−12.3"), (float("nan"), "nan")],
)  # fmt: skip
def test_differences_carry_their_sign(value, shown):
    assert signed(value) == shown


@pytest.mark.parametrize(
    "value,shown", [(0.0002, "p < 0.001"), (0.0321, "p 0.032"), (1.0, "p 1"), (None, "p –")]
)
def test_p_values_are_short(value, shown):
    assert chance(value) == shown


@pytest.mark.parametrize(
    "given,found",
    [([0.1, 0.2], (0.1, 0.2)), ({"low": 1, "high": 2}, (1.0, 2.0)), (None, None), ([1], None),
     ({"low": None, "high": 2}, None), ("ab", None)],
)  # fmt: skip
def test_intervals_are_read_in_either_form(given, found):
    assert bounds_of(given) == found


def test_intervals_stand_in_brackets():
    assert between((-0.0312, 0.9)) == "[−0.031, 0.900]"
    assert between((0.5, 0.5)) == ""
