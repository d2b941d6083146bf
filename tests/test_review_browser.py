"""The sheet in a real browser, with real keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from review_browser import CHROMIUM, browser
from test_review import BASE, HOSTILE, TUNED, case, exported
from vlmpipe.evaluation.review import import_reviews

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
PLACE = "document.getElementById('place').textContent"
SHOWN = "[...document.querySelectorAll('article')].filter(a => !a.hidden).map(a => a.dataset.item)"
PRESSED = (
    "[...document.querySelectorAll('[data-choice][aria-pressed=true]')].map(b => b.dataset.choice)"
)
NOTICE = "document.getElementById('notice').textContent"


def visible(page, selector):
    return page.run(
        f"[...document.querySelectorAll('article:not([hidden]) {selector}')]"
        ".some(e => e.offsetParent !== null)"
    )


@pytest.fixture
def page(tmp_path):
    folder = tmp_path / "browser"
    folder.mkdir()
    with browser(folder) as found:
        found.size(1280, 800)
        yield found
        assert found.console == []


@pytest.fixture
def run(tmp_path):
    return tmp_path / "outputs" / "demo"


def opened(page, sheet):
    page.open(sheet.path)
    page.press("Enter")
    page.wait("!document.querySelector('dialog').open")


def downloaded(tmp_path, page) -> Path:
    folder = tmp_path / "browser" / "downloads"
    for _ in range(500):
        found = [path for path in folder.iterdir() if path.suffix == ".json"]
        if found:
            return found[0]
        page.run("new Promise(done => setTimeout(done, 20))")
    raise AssertionError("nothing was downloaded")


def test_a_sheet_is_judged_by_keys_survives_a_reload_and_is_counted(page, run, tmp_path):
    sheet, key = exported(run, 5)
    opened(page, sheet)
    names = sorted(key.items)
    assert page.run(SHOWN) == names[:1]
    for choice in "1234":
        page.press(choice)
    assert page.run(SHOWN) == names[4:]
    page.press("u")
    assert page.run(SHOWN) == names[3:4]
    assert page.run(PRESSED) == []
    page.press("ArrowLeft")
    assert page.run(PRESSED) == ["tie"]
    page.reload()
    assert not page.run("document.querySelector('dialog').open")
    assert (page.run(SHOWN), page.run(PRESSED)) == (names[2:3], ["tie"])
    page.press("2")
    assert page.run(SHOWN) == names[3:4]
    page.press("0")
    page.press("=")
    assert page.run("!document.getElementById('finished').hidden")
    page.click("#download-end")
    assert "name" in page.run(NOTICE)
    for letter in "Ann 1":
        page.press(letter)
    assert page.run("!document.getElementById('finished').hidden")
    page.press("Enter")
    page.click("#download")
    path = downloaded(tmp_path, page)
    assert path.name == f"review-{sheet.name[:6]}-Ann-1.json"
    given = {each["item"]: each["choice"] for each in json.loads(path.read_text())["answers"]}
    assert given == dict(zip(names, ["1", "2", "2", "both_bad", "tie"], strict=True))
    results, _ = import_reviews(run, [path])
    first, second = key.items[names[0]].first, key.items[names[1]].first
    expected = {BASE: 0, TUNED: 0}
    expected[first] += 1
    for opened_second in (second, key.items[names[2]].first):
        expected[TUNED if opened_second == BASE else BASE] += 1
    assert results.raters["Ann 1"].wins == expected
    assert (results.raters["Ann 1"].ties, results.raters["Ann 1"].both_bad) == (1, 1)


def test_a_choice_can_be_changed_with_the_mouse(page, run):
    sheet, _ = exported(run, 3)
    opened(page, sheet)
    page.click("[data-choice='1']")
    page.click("#back")
    assert page.run(PRESSED) == ["1"]
    page.click("[data-choice='both_bad']")
    page.press("ArrowLeft")
    assert page.run(PRESSED) == ["both_bad"]
    page.press("u")
    assert page.run(PRESSED) == []


def test_reference_raw_text_differences_and_picture_are_one_key_away(page, run):
    table = "<table><tr><td>1</td><td>{}</td></tr></table>"
    answers = {BASE: table.format("5"), TUNED: table.format("6")}
    sheet, _ = exported(run, cases=[case(1, task="table", answers=answers)])
    opened(page, sheet)
    assert visible(page, ".answers table")
    assert not visible(page, ".answers .raw")
    assert not visible(page, ".reference")
    colour = "getComputedStyle(document.querySelector('td.off')).backgroundColor"
    plain = page.run(colour)
    page.press("d")
    assert page.run(colour) != plain
    page.press("t")
    assert visible(page, ".answers .raw")
    assert not visible(page, ".answers table")
    page.press("r")
    assert visible(page, ".reference pre")
    page.press("z")
    assert page.run("document.querySelectorAll('.picture.large').length") == 1
    page.press("Escape")
    assert page.run("document.querySelectorAll('.picture.large').length") == 0


def typed(page, key, code):
    """A key of the keyboard as a layout of other letters, or an input method, names it."""
    for kind in ("rawKeyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=key, code=code)


def test_keys_work_under_a_korean_layout(page, run):
    sheet, key = exported(run, 3)
    opened(page, sheet)
    shown = "document.body.className"
    for letter, code, name in (("ㄱ", "KeyR", "reference"), ("ㅅ", "KeyT", "raw")):
        typed(page, letter, code)
        assert f"with-{name}" in page.run(shown)
    typed(page, "Process", "KeyD")
    assert "with-marks" in page.run(shown)
    typed(page, "ㅋ", "KeyZ")
    assert page.run("document.querySelectorAll('.picture.large').length") == 1
    typed(page, "Process", "Digit1")
    assert page.run(SHOWN) == sorted(key.items)[1:2]
    typed(page, "ㅕ", "KeyU")
    assert page.run(SHOWN) == sorted(key.items)[:1]


def test_under_another_latin_layout_the_letter_counts_not_its_place(page, run):
    opened(page, exported(run, 1)[0])
    typed(page, "p", "KeyR")
    assert "with-reference" not in page.run("document.body.className")
    typed(page, "r", "KeyO")
    assert "with-reference" in page.run("document.body.className")


def test_where_nothing_can_be_marked_it_says_so(page, run):
    chart = 'pie\n  "a" : 1\n  "b" : {}\n'
    cases = [
        case(1, answers={BASE: "a b", TUNED: "x y z"}),
        case(2),
        case(3, task="chart", answers={BASE: chart.format(2), TUNED: chart.format(3)}),
    ]
    sheet, key = exported(run, cases=cases)
    opened(page, sheet)
    places = {
        item.sample: place for place, item in enumerate(map(key.items.get, sorted(key.items)))
    }
    told = {}
    page.press("d")
    for place in range(3):
        told[place] = page.run(NOTICE)
        page.press("ArrowRight")
    assert "cannot be marked in this pair" in told[places["sample-01"]]
    assert told[places["sample-02"]] == ""
    assert "T shows the texts" in told[places["sample-03"]]
    page.press("d")
    assert page.run(NOTICE) == ""


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_every_picture_loads(page, run, width):
    long_table = "<table><tr>" + "<td>a long cell of text</td>" * 40 + "</tr></table>"
    answers = {BASE: long_table, TUNED: "x" * 3000}
    cases = [case(1, task="table", answers=answers), case(2)]
    page.size(width, 800)
    opened(page, exported(run, cases=cases)[0])
    for key in ("r", "t", "d", "1"):
        page.press(key)
        assert page.run("document.documentElement.scrollWidth") <= width
    page.run("for (const article of document.querySelectorAll('article')) article.hidden = false")
    page.run("for (const image of document.images) image.loading = 'eager'")
    page.wait("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.run("document.images.length") == 2
    bar = page.run("document.querySelector('footer').getBoundingClientRect().height")
    assert bar < 200


def test_nothing_that_an_answer_carries_runs(page, run):
    cases = [
        case(number, text, text + "!", task=task, prompt=text, reference=text)
        for number, text in enumerate(HOSTILE)
        for task in ("qa", "table")
    ]
    cases = [case(number, **_texts(each)) for number, each in enumerate(cases)]
    sheet, key = exported(run, cases=cases)
    opened(page, sheet)
    for _ in key.items:
        for press in ("t", "t", "r", "r", "1"):
            page.press(press)
    assert page.run("!document.getElementById('finished').hidden")
    assert page.run("window.hacked") is None


def test_the_policy_stops_a_script_that_was_slipped_in(page, run):
    sheet, _ = exported(run, 1)
    source = sheet.path.read_text()
    sheet.path.write_text(source.replace("<main>", "<main><script>window.hacked = 1</script>"))
    page.open(sheet.path)
    assert page.run("window.hacked") is None
    assert any("Content Security Policy" in line for line in page.console)
    page.console.clear()


@pytest.mark.parametrize(
    "kept", ["{", "null", "3", '{"verdicts": {"x": {"choice": "1"}}, "place": 99, "history": 4}']
)
def test_damaged_storage_does_not_break_the_page(page, run, kept):
    sheet, key = exported(run, 2)
    page.open(sheet.path)
    page.run(f"localStorage.setItem('vlmpipe-review-{sheet.name}', {json.dumps(kept)})")
    page.reload()
    if page.run("document.querySelector('dialog').open"):
        page.press("Enter")
        page.wait("!document.querySelector('dialog').open")
    page.press("1")
    assert page.run("document.getElementById('state').textContent") == "· 1 open"
    assert page.run("document.querySelectorAll('article').length") == len(key.items)


def _texts(found):
    return {
        "answers": found.answers,
        "task": found.task,
        "prompt": found.prompt,
        "reference": found.reference,
    }
