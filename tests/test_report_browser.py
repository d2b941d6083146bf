"""The page in a real Chromium: it loads, is readable at both widths, and obeys nobody."""

from __future__ import annotations

import pytest

from browser import CHROMIUM, opened_browser
from report_fakes import (
    publish_hostile,
    publish_records,
    publish_whole_run,
    record,
    whole_evaluation,
)
from test_report import HOSTILE
from test_report_rendering import TASKS, hostile, publish_answers
from vlmpipe.evaluation.report import choice, write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
LEAST_FONT_PX = 12


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with opened_browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def whole_page(tmp_path_factory):
    """A page with every section in it."""
    run = tmp_path_factory.mktemp("whole") / "demo"
    publish_whole_run(run)
    whole_evaluation(run)
    return write_report(run)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "outputs" / "demo"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_and_readable(browser, whole_page, width, scheme):
    seen = browser.look(whole_page, width, scheme=scheme)
    assert seen.console == []
    assert seen.requests == []
    assert seen.images == seen.loaded >= 2
    assert seen.drawings >= 2
    assert seen.overflow <= 0
    assert seen.wide == []
    assert seen.smallest >= LEAST_FONT_PX
    assert (seen.background == "rgb(255, 255, 255)") is (scheme == "light")
    assert seen.sections >= 11


SCROLLED = """(() => {
  const box = e => e.getBoundingClientRect();
  const tables = [...document.querySelectorAll("table.pinned")];
  const moved = tables.filter(table => (table.parentElement.scrollLeft = 150) &&
    table.parentElement.scrollLeft > 0);
  const first = table => [...table.querySelectorAll("tbody tr > :first-child")];
  const unseen = table => first(table)
    .filter(e => Math.abs(box(e).left - box(table.parentElement).left) > 1);
  return {tables: tables.length, moved: moved.length,
    unseen: tables.flatMap(unseen).map(e => e.textContent)};
})()"""


def test_names_of_files_and_rungs_stay_in_sight_beside_their_figures(browser, whole_page):
    seen = browser.ask(whole_page, 390, SCROLLED)
    assert seen == {"tables": 2, "moved": 2, "unseen": []}


def test_nothing_that_a_text_from_elsewhere_carries_runs(browser, run):
    publish_hostile(run, HOSTILE)
    seen = browser.look(write_report(run), 1280)
    assert not seen.hacked
    assert seen.console == seen.requests == []
    assert seen.images == seen.loaded == 1


def test_nothing_that_an_answer_of_any_task_carries_runs(browser, run, monkeypatch):
    monkeypatch.setattr(choice, "PER_GROUP", 1000)
    publish_answers(run, [each for task in TASKS for each in hostile(task)])
    seen = browser.look(write_report(run), 1280)
    assert not seen.hacked
    assert seen.console == seen.requests == []
    assert seen.images == 0
    assert seen.sections > 3


@pytest.mark.parametrize("width", [1280, 390])
def test_answers_without_a_place_to_break_stay_in_their_box(browser, run, width):
    long = "x" * 3000
    publish_records(run, [record(f"openai:{long[:150]}", long, long, prompt=long, split=long)])
    seen = browser.look(write_report(run), width)
    assert seen.overflow <= 0
    assert seen.wide == []


def test_the_probe_sees_what_is_wrong_with_a_page(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<main><p style='width:2000px;font-size:9px'>wide</p><img src='gone.png'></main>"
        "<script>window.hacked = 1; console.error('said'); throw Error('thrown')</script>"
    )
    seen = browser.look(page, 390)
    assert seen.hacked
    assert any("said" in line for line in seen.console)
    assert any("thrown" in line for line in seen.console)
    assert [url.rsplit("/", 1)[1] for url in seen.requests] == ["gone.png"]
    assert (seen.images, seen.loaded) == (1, 0)
    assert seen.overflow > 1000
    assert len(seen.wide) == 1
    assert seen.smallest == 9
