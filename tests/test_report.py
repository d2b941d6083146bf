"""The run's page: complete, self-contained, inert, and drawn from whatever is there."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from report_fakes import (
    CONVERTED,
    prediction,
    publish,
    publish_hostile,
    publish_validate,
    publish_whole_run,
    rung,
    write_broken_json,
)
from vlmpipe.errors import ArtifactError
from vlmpipe.evaluation.report import write_report
from vlmpipe.evaluation.report.numbers import (
    figure,
    readable_seconds,
    readable_size,
    share,
    tiny,
)
from vlmpipe.evaluation.report.serving import serve_argv

HOSTILE = (
    "</pre></div></main><script>window.hacked = 1</script>",
    "<table><tr><td><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>",
    "\"><svg onload='window.hacked = 1'>",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
)


class Page(HTMLParser):
    """Elements with their attributes, and the visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._texts: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self._texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._texts).split())

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


@pytest.fixture
def run(tmp_path):
    return tmp_path / "outputs" / "demo"


def test_whole_run_shows_every_part(run):
    publish_whole_run(run)
    page = Page(write_report(run))
    for expected in (
        "1 of 5 gates failed",
        "heldout/teds/tuned is 0.74, below its threshold 0.9",
        "merge went on: validate.gate=report",
        "196 tensors changed of 196 adapted",
        "8 held-out samples",
        "Scope assistant_after_image",
        "Convert the table in the image to HTML.",
        "q2_k against f16: KL divergence 0.812 nats a token, limit 0.15",
        "the smallest of 2 whose task metric",
        "24 of them with pictures that have to be resized",
        "q8_0 from the adapter as trained",
        "vlmpipe serve -c configs/tiny.yaml run.name=demo",
        "curl http://127.0.0.1:8000/health",
        "torch 2.13.0",
    ):
        assert expected in page.text
    assert sum(tag == "svg" for tag, _ in page.elements) == 4
    assert sum(tag == "img" for tag, _ in page.elements) == 2


def test_page_needs_nothing_from_outside(run):
    publish_whole_run(run)
    page = Page(write_report(run))
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert "@import" not in page.source
    assert not re.search(r"url\((?!#)", page.source)
    assert page.tags().isdisjoint({"script", "iframe", "object", "embed"})


@pytest.mark.parametrize("text", HOSTILE)
def test_script_carrying_answers_are_inert(run, text):
    rows = [
        prediction("table-7", "heldout", model, text, prompt=text, reference=text)
        for model in ("base", "tuned")
    ]
    publish_validate(run, rows, passed=False, reasons=[text])
    page = Page(write_report(run))
    assert "script" not in page.tags()
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    assert all(found["src"].startswith("data:") for tag, found in page.elements if tag == "img")
    assert html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page.source


@pytest.mark.parametrize("turn", range(len(HOSTILE)))
def test_texts_from_elsewhere_are_inert_wherever_they_stand(run, turn):
    publish_hostile(run, [*HOSTILE[turn:], *HOSTILE[:turn]])
    page = Page(write_report(run))
    assert page.tags().isdisjoint({"script", "iframe", "object", "embed", "a", "form", "input"})
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    assert all(found["src"].startswith("data:") for tag, found in page.elements if tag == "img")
    for section in ("Verdicts", "Lineage", "Engines side by side", "Judged answers", "Forgetting"):
        assert section in page.text
    assert page.text.count("window.hacked = 1") > 20


def test_differences_from_the_reference_are_marked(run):
    publish_validate(run)
    source = write_report(run).read_text()
    assert '<td class="off">0.889</td>' in source
    assert source.count('class="off"') == 1
    assert "Answered just so</span> by tuned" in source


def test_a_run_with_one_stage_has_a_page(run):
    publish(run, "check", summary=["all is met"])
    page = Page(write_report(run))
    assert "No stage has given a verdict yet" in page.text
    assert "all is met" in page.text
    assert "Training" not in page.text


def test_an_empty_run_has_a_page(run):
    run.mkdir(parents=True)
    assert "Nothing is published yet." in Page(write_report(run)).text


@pytest.mark.parametrize("name", ["results.json", "predictions.jsonl"])
def test_a_hand_off_file_that_is_gone_or_broken_leaves_a_page(run, name):
    folder = publish_validate(run)
    write_broken_json(folder, name)
    assert "Base against tuned" in Page(write_report(run)).text
    (folder / name).unlink()
    assert "Base against tuned" in Page(write_report(run)).text


def test_a_damaged_manifest_is_an_artifact_error(run):
    folder = publish_validate(run)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is damaged"):
        write_report(run)


def test_inputs_that_have_a_newer_version_are_named(run):
    publish(run, "train")
    publish(run, "train", version="v002")
    publish(run, "merge", inputs={"train": {"version": "v001"}})
    assert "made from train v001, latest is v002" in Page(write_report(run)).text


def test_a_refusing_gate_says_so(run):
    publish_validate(run, passed=False, reasons=["it guesses"])
    assert "the next stage refuses it" in Page(write_report(run)).text


def test_cached_stages_are_named_as_such(run):
    publish(run, "train")
    assert "cached" in Page(write_report(run, cached={"train"})).text
    assert "cached" not in Page(write_report(run)).text


def test_text_only_answers_are_shown_without_pictures(run):
    row = prediction(
        "q1", "heldout", "tuned", "버전 관리 도구입니다", reference="버전 관리 시스템입니다"
    )
    folder = publish_validate(run, [row])
    results = json.loads((folder / "results.json").read_text())
    results["gallery"] = [{"sample": "q1", "split": "heldout", "pictures": []}]
    (folder / "results.json").write_text(json.dumps(results))
    page = Page(write_report(run))
    assert "img" not in page.tags()
    assert "<mark>도구입니다</mark>" in page.source


def test_long_answers_are_cut_and_say_so(run):
    publish_validate(run, [prediction("table-7", "heldout", "tuned", "x" * 5000)])
    assert "1 000 more characters" in Page(write_report(run)).text


def test_serve_command_keeps_configuration_and_settings_only():
    argv = ["/x/vlmpipe", "run-all", "-c", "a.yaml", "--use", "train=v002", "run.name=n", "--json"]
    assert serve_argv(argv) == ["vlmpipe", "serve", "-c", "a.yaml", "run.name=n"]


@pytest.mark.parametrize(
    "value,shown",
    [
        (None, "–"),
        (0.12345, "0.123"),
        (0.0, "0"),
        (1e-5, "1e-05"),
        (-0.12345, "−0.123"),
        (41.27, "41.3"),
        (12345.6, "12\u202f346"),
        (float("nan"), "nan"),
    ],
)
def test_figures_are_short(value, shown):
    assert figure(value) == shown


def test_times_and_sizes_carry_units():
    assert [readable_seconds(s) for s in (None, 0.42, 38.2, 245, 7800)] == [
        "–",
        "0.42 s",
        "38 s",
        "4 min 05 s",
        "2 h 10 min",
    ]
    assert [readable_size(n) for n in (0, 2048, 5 << 20, 3 << 30)] == [
        "0 B",
        "2.0 KiB",
        "5.0 MiB",
        "3.00 GiB",
    ]


def test_writing_the_page_imports_no_torch(run):
    publish_whole_run(run)
    code = (
        "import sys; from pathlib import Path; from vlmpipe.evaluation.report import write_report;"
        f"assert 'jinja2' not in sys.modules; write_report(Path({str(run)!r}));"
        "print([m for m in ('torch', 'transformers', 'typer', 'rich') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("value", "text"), [(3.3e-8, "3.3e-8"), (0.00031, "0.00031"), (0.812, "0.81"), (0, "0")]
)
def test_divergences_are_readable_at_any_size(value, text):
    assert tiny(value) == text
    assert tiny(None) == tiny(True) == "–"


def test_a_share_is_whole_only_where_nothing_is_missing():
    assert share(1.0) == "100 %"
    assert share(0.99999) == "99.9 %"
    assert share(0.9412) == "94.1 %"
    assert share(None) == "–"


def test_a_failed_rung_is_marked_and_its_fault_named(run):
    fault = {"part": "vision features", "found": "they differ by 31 %", "at_fault": "conversion"}
    ladder = CONVERTED["parity.json"] | {"diagnosis": fault}
    publish(run, "convert", files={"parity.json": json.dumps(ladder)})
    page = Page(write_report(run))
    assert "q2_k failed f16 0.81" in page.text
    assert "First departs: vision features (they differ by 31 %). At fault: the conversion." in (
        page.text
    )


def test_the_rung_that_deploy_measured_stands_below_those_of_convert(run):
    publish(run, "convert", files={"parity.json": json.dumps(CONVERTED["parity.json"])})
    served = {
        "probe": {"count": 32, "asked": 8},
        "rungs": [rung("served", "q8_0 in process", 1e-9, 1e-3)],
    }
    publish(run, "deploy", files={"parity.json": json.dumps(served)})
    text = Page(write_report(run)).text
    assert text.index("q2_k failed") < text.index("served q8_0 in process")
    assert "The service was asked 8 of the probes" in text
