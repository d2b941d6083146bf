"""Which samples the gallery shows, with which pictures, and that the page stays bounded."""

from __future__ import annotations

import base64
import io
import json
import re

import pytest
from PIL import Image

from report_fakes import (
    TABLE,
    prediction,
    publish,
    publish_data,
    publish_records,
    publish_validate,
    record,
)
from test_report import Page
from vlmpipe.evaluation.report import budget, write_report
from vlmpipe.evaluation.report.choice import chosen_samples
from vlmpipe.evaluation.report.pictures import SIDE, address_of

MOST_BYTES = 10_000_000


@pytest.fixture
def run(tmp_path):
    return tmp_path / "outputs" / "demo"


def rows(scores, engine="hf:adapter", split="heldout"):
    return [
        prediction(f"s{place}", split, engine, "", metrics={} if teds is None else {"teds": teds})
        for place, teds in enumerate(scores)
    ]


def groups(choice):
    found = {}
    for each in choice.samples:
        found.setdefault(each.group, []).append(each.key[1])
    return found


def test_best_median_and_worst_are_shown_by_the_primary_metric():
    scores = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6, 0.0, 1.0, 0.55, 0.45]
    (choice,) = chosen_samples(rows(scores))
    assert (choice.split, choice.metric, choice.of) == ("heldout", "teds", 13)
    assert groups(choice) == {
        "best": ["s10", "s2", "s6"],
        "median": ["s11", "s0", "s12"],
        "worst": ["s5", "s1", "s9"],
    }


@pytest.mark.parametrize("count", range(1, 12))
def test_no_sample_is_shown_twice(count):
    (choice,) = chosen_samples(rows([place / 20 for place in range(count)]))
    shown = [each.key for each in choice.samples]
    assert len(shown) == len(set(shown)) == min(count, 9)
    assert shown[0] == ("heldout", f"s{count - 1}")
    assert count == 1 or shown[-1] == ("heldout", "s0")


def test_of_equal_scores_the_longer_reference_is_the_better():
    first, second = rows([1.0, 1.0])
    (choice,) = chosen_samples([first, {**second, "reference": TABLE * 2}])
    assert [each.key[1] for each in choice.samples] == ["s1", "s0"]


def test_the_trained_model_decides_and_not_the_base():
    given = [*rows([0.9, 0.1, 0.5], engine="hf:base"), *rows([0.1, 0.9, 0.5])]
    (choice,) = chosen_samples(given)
    assert choice.engine == "hf:adapter"
    assert groups(choice)["best"] == ["s1"]


def test_failed_answers_are_left_out_and_unmeasured_ones_are_the_worst():
    given = rows([0.9, 0.5, None, 0.7])
    given[1] |= {"status": "failed"}
    given[2] |= {"unmeasured": "took too long"}
    (choice,) = chosen_samples(given)
    assert [each.key[1] for each in choice.samples] == ["s0", "s3", "s2"]


def test_other_splits_have_one_sample_of_each_kind():
    scores = [place / 20 for place in range(20)]
    first, second = chosen_samples([*rows(scores, split="train"), *rows(scores, split="heldout")])
    assert (first.split, len(first.samples)) == ("heldout", 9)
    assert (second.split, groups(second)) == (
        "train",
        {"best": ["s19"], "median": ["s10"], "worst": ["s0"]},
    )


def test_samples_beyond_those_laid_aside_have_their_picture_from_the_data(run):
    publish_data(run, ["a", "b", "c"])
    publish_records(run, [record("hf:adapter", name, TABLE, 0.5) for name in "abx"])
    page = Page(write_report(run))
    assert "not kept with the run" not in page.text
    pictures = [found for tag, found in page.elements if tag == "img"]
    assert [found["alt"][-1] for found in pictures] == ["a", "b"]
    assert all(found["src"].startswith("data:image/") for found in pictures)


def test_pictures_that_the_run_does_not_hold_are_said_to_be_elsewhere(run):
    publish(run, "check")
    publish_records(run, [record("hf:adapter", "a", TABLE, split="scans.jsonl")])
    assert "Their pictures are not kept with the run." in Page(write_report(run)).text


def test_equal_answers_are_shown_once_with_everyone_who_gave_them(run):
    publish(run, "check")
    wrong = TABLE.replace("0.839", "0.889")
    for engine, text in (("hf:adapter", TABLE), ("hf:merged", f"{TABLE}\n"), ("hf:base", wrong),
                         ("llama_cpp:q8_0", wrong)):  # fmt: skip
        publish_records(run, [record(engine, "a", text)])
    page = Page(write_report(run))
    assert "Answered just so by hf:adapter, hf:merged" in page.text
    assert "hf:base, llama_cpp:q8_0" in page.text
    assert page.source.count('<td class="off">0.889</td>') == 1


def test_what_evaluate_asked_stands_for_what_validate_asked(run):
    row = prediction("a", "heldout", "hf:adapter", "old words", engine="hf:adapter")
    publish_validate(run, [row])
    publish_records(run, [record("hf:adapter", "a", "new words")])
    text = Page(write_report(run)).text
    assert "new words" in text
    assert "old words" not in text


def test_an_answer_that_failed_says_why(run):
    publish(run, "check")
    publish_records(run, [record("hf:adapter", "a", TABLE)])
    failed = record("hf:merged", "a", "", status="failed", error="killed by <b>signal</b> 9")
    publish_records(run, [failed])
    assert "killed by <b>signal</b> 9" in Page(write_report(run)).text


def test_half_a_surrogate_pair_does_not_end_the_page(run):
    row = prediction("a", "heldout", "tuned", "broken \ud800 \x00 text")
    publish_validate(run, [row])
    assert "broken ?" in Page(write_report(run)).text


@pytest.mark.parametrize(("noise", "kind"), [(False, "png"), (True, "jpeg")])
def test_pictures_are_made_small(noise, kind):
    image = Image.effect_noise((3000, 2000), 90) if noise else Image.new("L", (3000, 2000), 255)
    address = address_of(image.convert("RGB"))
    assert address.startswith(f"data:image/{kind};base64,")
    content = io.BytesIO(base64.b64decode(address.partition(",")[2]))
    assert max(Image.open(content).size) == SIDE


def test_drawings_beyond_the_budget_are_shown_as_text(run, monkeypatch):
    publish(run, "check")
    publish_records(run, [record("hf:adapter", "a", TABLE.replace("Age", "Year"))])
    assert len(re.findall('<div class="drawn"', write_report(run).read_text())) == 2
    monkeypatch.setattr(budget, "MOST_DRAWN", 100)
    page = Page(write_report(run))
    assert '<div class="drawn"' not in page.source
    assert "Year" in page.text


@pytest.mark.slow
def test_a_page_of_many_large_answers_and_pictures_stays_below_ten_megabytes(run):
    names = [f"s{place}" for place in range(12)]
    publish_data(run, names, size=(1600, 1600), pictures=3)
    cells = "".join(f"<td>&amp;{place}&lt;</td>" for place in range(2_600))
    answer = f"<table><tr>{cells}</tr></table>"
    for place, name in enumerate(names):
        for number in range(12):
            text = answer.replace("<td>", f"<td>{place} {number}", 1)
            publish_records(run, [record(f"openai:http://h:{number}", name, text, place / 20)])
        publish_records(run, [record("hf:base", name, "<&" * 500_000)])
    assert write_report(run).stat().st_size < MOST_BYTES


@pytest.mark.slow
def test_a_run_of_ten_thousand_samples_has_a_small_page(run):
    publish(run, "check")
    for engine in ("hf:adapter", "llama_cpp:q8_0"):
        publish_records(
            run, (record(engine, f"s{n}", f"text {n}", (n % 100) / 100) for n in range(10_000))
        )
    path = write_report(run)
    assert path.stat().st_size < 1_000_000
    assert "the same 10 000 samples for every engine" in Page(path).text


def test_a_gallery_of_results_without_pictures_is_text(run):
    folder = publish_validate(run)
    results = json.loads((folder / "results.json").read_text())
    del results["gallery"]
    (folder / "results.json").write_text(json.dumps(results))
    assert "img" not in Page(write_report(run)).tags()
