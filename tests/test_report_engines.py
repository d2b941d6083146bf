"""Engines side by side: the same samples, figures with intervals, differences from the first."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from report_fakes import publish, publish_records, record
from test_report import Page
from vlmpipe.evaluation.report import write_report
from vlmpipe.evaluation.report.engines import side_by_side
from vlmpipe.evaluation.report.survey import survey_of

FIRST, SECOND = "hf:adapter", "llama_cpp:q4_k_m"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "outputs" / "demo"
    publish(folder, "check")
    return folder


def pairs(scores, second=0.5, **more):
    """Two engines over as many samples; the second's score is another."""
    for place, teds in enumerate(scores):
        yield record(FIRST, f"s{place}", f"text {place}", teds)
        yield record(SECOND, f"s{place}", f"text {place if place % 2 else -1}", second, **more)


def table_of(run):
    tables = side_by_side(survey_of(run))
    assert len(tables) == 1
    return tables[0]


def row_of(table, title):
    rows = {row.title: row for group in table.groups for row in group.rows}
    return rows[title]


def test_figures_stand_beside_each_other_with_the_difference_from_the_first(run):
    publish_records(run, pairs([0.9, 1.0] * 10))
    table = table_of(run)
    assert (table.engines, table.samples, table.total) == ([FIRST, SECOND], 20, 20)
    own, other = row_of(table, "TEDS").cells
    assert own.value == pytest.approx(0.95)
    assert 0.9 <= own.interval.low < 0.95 < own.interval.high <= 1.0
    assert own.difference is None
    assert other.difference == pytest.approx(-0.45)
    assert other.p_value < 0.001
    assert other.mark == "worse"
    assert row_of(table, "character error rate").cells[1].mark == "worse"
    assert row_of(table, "perplexity").cells[0].value == pytest.approx(1.6487, abs=1e-4)
    page = Page(write_report(run))
    assert "held-out samples the same 20 samples for every engine" in page.text
    assert "−0.450 ▼ p < 0.001" in page.text


def test_a_difference_that_chance_explains_has_no_mark(run):
    publish_records(run, pairs([0.4, 0.6] * 10))
    cell = row_of(table_of(run), "TEDS").cells[1]
    assert cell.p_value > 0.5
    assert cell.mark == ""


def test_equal_means_are_said_to_be_the_same(run):
    publish_records(run, pairs([0.5] * 6))
    assert "same mean" in Page(write_report(run)).text
    assert "▼" not in Page(write_report(run)).text.split("In brackets")[0]


def test_where_sets_differ_only_common_samples_count_and_it_is_said(run):
    publish_records(run, pairs([0.2, 0.4, 0.6]))
    publish_records(run, [record(FIRST, "s3", "only here", 1.0)])
    table = table_of(run)
    assert (table.samples, table.total) == (3, 4)
    assert row_of(table, "TEDS").cells[0].value == pytest.approx(0.4)
    assert "only the 3 samples of 4 that every engine in the table answered" in (
        Page(write_report(run)).text
    )


def test_a_sample_changed_under_its_id_is_not_the_same_sample(run):
    publish_records(run, pairs([0.2, 0.4, 0.6, 0.8]))
    publish_records(run, [record(FIRST, "x", "", inputs="a"), record(SECOND, "x", "", inputs="b")])
    assert table_of(run).samples == 4


def test_an_engine_that_answered_few_is_named_beside_the_table(run):
    publish_records(run, pairs([0.5] * 8))
    publish_records(run, [record("hf:merged", "s0", "a")])
    publish_records(
        run,
        [record("hf:merged", f"s{n}", "", status="failed", error="out of memory") for n in (1, 2)],
    )
    table = table_of(run)
    assert table.engines == [FIRST, SECOND]
    assert table.samples == 8
    assert list(table.asides) == ["hf:merged answered 1 of 8 samples: out of memory"]
    assert "Not in the table: hf:merged" in Page(write_report(run)).text


def test_failed_cut_and_unmeasured_answers_are_counted(run):
    publish_records(run, pairs([0.5] * 4, cut=True, unmeasured="took too long"))
    publish_records(run, [record(FIRST, "x", "", status="failed", error="killed")])
    table = table_of(run)
    assert [cell.value for cell in row_of(table, "failed").cells] == [1, 0]
    assert [cell.value for cell in row_of(table, "cut at the limit").cells] == [0, 4]
    assert [cell.value for cell in row_of(table, "answered, but not measured").cells] == [0, 4]
    assert [cell.value for cell in row_of(table, "tokens a second").cells] == [10, 10]


def test_equal_answers_are_counted_letter_for_letter(run):
    publish_records(run, pairs([0.5] * 4))
    assert table_of(run).identical == [[None, 0.5], [0.5, None]]
    publish_records(run, [record("hf:merged", f"s{n}", f" text {n}\n") for n in range(4)])
    assert table_of(run).identical[0] == [None, 1.0, 0.5]


def test_columns_are_the_trained_model_and_then_files_by_their_bits(run):
    names = ("llama_cpp:q4_k_m", "llama_cpp:f16", "hf:base", "llama_cpp:q8_0", "hf:adapter")
    publish_records(run, [record(name, "s0", "a") for name in names])
    assert table_of(run).engines == [
        "hf:adapter",
        "hf:base",
        "llama_cpp:f16",
        "llama_cpp:q8_0",
        "llama_cpp:q4_k_m",
    ]


def test_engines_without_a_sample_in_common_are_not_compared(run):
    publish_records(run, [record(FIRST, "a", "x"), record(SECOND, "b", "x")])
    assert table_of(run).groups == []
    assert "No sample was answered by all of hf:adapter, llama_cpp:q4_k_m." in (
        Page(write_report(run)).text
    )


def test_engines_that_answered_nothing_say_why(run):
    publish_records(run, [record(FIRST, "a", "", status="failed", error="no memory")])
    assert "hf:adapter answered 0 of 0 samples: no memory" in Page(write_report(run)).text


def test_each_split_has_a_table_held_out_samples_first(run):
    publish_records(run, pairs([0.5] * 2, split="heldout"))
    publish_records(run, [record(FIRST, "s0", "a", split="scans.jsonl"),
                          record(FIRST, "s0", "a", split="train")])  # fmt: skip
    titles = [table.title for table in side_by_side(survey_of(run))]
    assert titles == ["held-out samples", "scans.jsonl", "training probes"]


def test_what_produced_the_answers_is_told(run):
    publish_records(run, [record(FIRST, "s0", "a")])
    text = Page(write_report(run)).text
    for expected in (
        "transformers 5.23.0",
        "sha256 " + "ab" * 6,
        "seed 42",
        "base, adapter on top",
    ):
        assert expected in text


def test_engines_of_different_contracts_are_warned_of(run):
    publish_records(run, [record(FIRST, "s0", "a")])
    assert "different preprocess contracts" not in Page(write_report(run)).text
    publish_records(run, [record(SECOND, "s0", "a", preprocess_contract="ef" * 32)])
    assert "different preprocess contracts" in Page(write_report(run)).text


@pytest.mark.parametrize("whole", [True, False])
def test_what_evaluate_worked_out_is_taken_where_it_is_of_these_samples(run, whole):
    publish_records(run, pairs([0.5] * 4))
    if not whole:
        publish_records(run, [record(FIRST, "x", "only here", 1.0)])
    answered = 4 if whole else 5
    figure = {"value": 0.123, "interval": {"low": 0.1, "high": 0.2}, "samples": answered}
    split = {"answered": answered, "metrics": {"teds": figure}, "latency_s": {"median": 7.0}}
    noted = {"heldout": {"peak_memory_mib": 321.0, "reliance": {"image_gain": 1.25}}}
    summary = {"splits": {"heldout": split}, "passes": noted}
    (run / "predictions" / "hf-adapter.summary.json").write_text(json.dumps(summary))
    table = table_of(run)
    assert row_of(table, "TEDS").cells[0].value == (0.123 if whole else 0.5)
    assert row_of(table, "peak memory, MiB").cells[0].value == 321.0
    assert row_of(table, "image reliance, nats a token").cells[0].value == 1.25
    assert (row_of(table, "request, median, seconds").cells[0].value == 7.0) is whole


@pytest.mark.parametrize(("engine", "shown"), [("hf:adapter", 321.0), ("openai:http://h", None)])
def test_memory_is_that_of_the_process_that_holds_the_model(run, engine, shown):
    publish_records(run, [record(engine, "s0", "a"), record("hf:base", "s0", "a")])
    summary = json.dumps({"passes": {"heldout": {"peak_memory_mib": 321.0}}})
    for path in list((run / "predictions").glob("*.jsonl")):
        path.with_suffix(".summary.json").write_text(summary)
    table = table_of(run)
    column = table.engines.index(engine)
    assert row_of(table, "peak memory, MiB").cells[column].value == shown


def test_a_damaged_file_of_records_is_named_and_the_others_are_shown(run):
    publish_records(run, pairs([0.5] * 2))
    (run / "predictions" / "broken.jsonl").write_text('{"no": "record"}\n')
    (run / "predictions" / "empty.jsonl").write_text("")
    text = Page(write_report(run)).text
    assert "Left out: broken.jsonl" in text
    assert "the same 2 samples for every engine" in text


def test_texts_are_read_past_and_not_held(run):
    publish_records(run, (record(FIRST, f"s{n}", f"{n} " + "x" * 100_000) for n in range(200)))
    tracemalloc.start()
    table = table_of(run)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert table.samples == 200
    assert peak < 8_000_000, "20 MB of answers were held"
