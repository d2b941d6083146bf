"""People as judges: the sheet hides whose answer is whose, and what comes back is counted."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from vlmpipe.errors import ArtifactError, ConfigError
from vlmpipe.evaluation.judging import Case
from vlmpipe.evaluation.judging.cases import text_digest
from vlmpipe.evaluation.review import import_reviews, write_sheet
from vlmpipe.evaluation.review.key import read_key

ENGINES = ("hf:base", "hf:adapter")
BASE, TUNED = ENGINES
HOSTILE = (
    "</pre></article></main><script>window.hacked = 1</script>",
    "<table><tr><td><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>",
    "\"><svg onload='window.hacked = 1'>",
    "{{ 7 * 7 }} {% raw %} ${7*7} \0 \ud800",
)


def case(number, base="a worse answer", tuned="a better answer", **changes):
    fields = {
        "sample": f"sample-{number:02d}",
        "split": "heldout",
        "task": "qa",
        "prompt": "<image>Which one?",
        "images": (Image.new("RGB", (60, 40), "teal"),),
        "reference": "the truth",
        "answers": {BASE: f"{base} {number}", TUNED: f"{tuned} {number}"},
        "scores": {BASE: 0.2, TUNED: 0.8},
    }
    return Case(**(fields | changes))


@pytest.fixture
def run(tmp_path):
    return tmp_path / "outputs" / "demo"


def exported(run, count=4, seed="s", **changes):
    """A sheet of `count` cases, and its key."""
    cases = changes.pop("cases", None) or [case(number, **changes) for number in range(count)]
    sheet = write_sheet(cases, ENGINES, run.parent / "sheet.html", run / "review", seed)
    return sheet, read_key(run / "review", sheet.name)


def returned(folder, key, name, winners, **changes):
    """The file of somebody who names an engine, `tie` or `both_bad` for each sample in turn."""
    in_order = sorted(key.items.items(), key=lambda found: found[1].sample)
    answers = []
    for (pair, item), winner in zip(in_order, winners, strict=False):
        if winner is not None:
            choice = winner if winner in ("tie", "both_bad") else "21"[item.first == winner]
            answers.append({"item": pair, "choice": choice, "seconds": 2.5})
    content = {
        "format": "vlmpipe-review",
        "version": 1,
        "sheet": key.sheet,
        "rater": name,
        "answers": answers,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content | changes))
    return path


class Elements(HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_sheet_names_neither_engine_nor_sample_nor_order(run):
    sheet, key = exported(run, 12, seed=None)
    source = sheet.path.read_text()
    for word in (*ENGINES, "sample-", "scores", key.seed):
        assert word not in source
    assert {item.first for item in key.items.values()} == set(ENGINES)


def test_answers_stand_in_the_order_that_the_key_says(run):
    sheet, key = exported(run)
    source = sheet.path.read_text()
    for name, item in key.items.items():
        article = source.split(f'data-item="{name}"')[1].split("</article>")[0]
        text = re.sub(r"<[^>]+>", "", article)
        assert (text.index("better") < text.index("worse")) == (item.first == TUNED)


def test_the_same_seed_gives_the_same_sheet_and_none_gives_another(run):
    names = [exported(run, seed=seed)[0].name for seed in ("s", "s", "t", None, None)]
    assert names[0] == names[1]
    assert len(set(names)) == 4


def test_the_order_of_the_data_does_not_show(run):
    _, key = exported(run, 30)
    samples = [key.items[name].sample for name in sorted(key.items)]
    assert samples != sorted(samples)


def test_the_sheet_needs_nothing_from_outside_and_allows_one_script(run):
    sheet, _ = exported(run)
    source = sheet.path.read_text()
    elements = Elements(source).found
    for _, attributes in elements:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    policy = next(a["content"] for t, a in elements if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert [tag for tag, _ in elements].count("script") == 1


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("task", ["qa", "table", "chart", "caption"])
def test_script_carrying_texts_are_inert(run, text, task):
    cases = [case(1, text, text + "!", task=task, prompt=text, reference=text)]
    sheet, _ = exported(run, cases=cases)
    elements = Elements(sheet.path.read_text()).found
    assert [tag for tag, _ in elements].count("script") == 1
    for tag, attributes in elements:
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "img" or attributes["src"].startswith("data:")


def test_a_long_answer_is_cut_and_says_so(run):
    sheet, _ = exported(run, cases=[case(1, "x" * 1_000_000)])
    source = sheet.path.read_text()
    assert "980002 more characters are not shown" in source
    assert len(source) < 200_000


def test_a_table_is_drawn_as_one_and_kept_as_text(run):
    table = "<table><tr><td>1</td><td>{}</td></tr></table>"
    cases = [case(1, task="table", answers={BASE: table.format("5"), TUNED: table.format("6")})]
    source = exported(run, cases=cases)[0].path.read_text()
    assert '<td class="off">5</td>' in source
    assert "&lt;td&gt;" in source


def test_large_pictures_are_made_smaller(run):
    noise = Image.effect_noise((2400, 1600), 60).convert("RGB")
    source = exported(run, cases=[case(1, images=(noise,))])[0].path.read_text()
    assert "data:image/jpeg;base64," in source
    assert len(source) < 3_000_000


def test_nothing_to_choose_between_is_told(run):
    with pytest.raises(ConfigError, match="each of 3 samples"):
        write_sheet([], ENGINES, run / "x.html", run, identical=3)


def test_win_rates_of_one_person(run, tmp_path):
    _, key = exported(run, 5)
    path = returned(tmp_path, key, "ann", [TUNED, TUNED, BASE, "tie", "both_bad"])
    results, written = import_reviews(run, [path])
    assert results.outcomes == {BASE: 1, TUNED: 2, "tie": 2}
    assert results.win_rate[TUNED].value == pytest.approx(0.6)
    assert results.win_rate[BASE].value == pytest.approx(0.4)
    assert (results.decided[TUNED].value, results.decided[TUNED].n) == (pytest.approx(2 / 3), 3)
    ann = results.raters["ann"]
    assert (ann.judged, ann.ties, ann.both_bad) == (5, 1, 1)
    assert ann.wins == {BASE: 1, TUNED: 2}
    assert ann.median_seconds == 2.5
    assert results.metric.agree.value == pytest.approx(2 / 3)
    assert results.metrics == ("agreement",)
    assert json.loads(written.read_text())["sheet"] == key.sheet


def test_agreement_of_two_people_worked_by_hand(run, tmp_path):
    _, key = exported(run, 6)
    ann = returned(tmp_path, key, "ann", [TUNED, TUNED, BASE, BASE, "tie", TUNED])
    ben = returned(tmp_path, key, "ben", [TUNED, BASE, BASE, BASE, "both_bad", TUNED])
    results, _ = import_reviews(run, [ann, ben])
    (pair,) = results.agreement
    # Same label 4 of 6; by chance (3*2 + 2*3)/36 = 1/3.
    assert pair.kappa.value == pytest.approx((4 / 6 - 1 / 3) / (1 - 1 / 3))
    # Three steps, both bad as a tie: one pair lies two steps apart, 2/6; by chance the products
    # of how often each said which.
    ann_counts, ben_counts = (2, 1, 3), (3, 1, 2)
    chance = sum(
        abs(i - j) * one * other
        for i, one in enumerate(ann_counts)
        for j, other in enumerate(ben_counts)
    )
    assert pair.weighted_kappa.value == pytest.approx(1 - (2 / 6) / (chance / 36))
    assert results.outcomes == {BASE: 2, TUNED: 2, "tie": 2}
    assert results.win_rate[TUNED].value == pytest.approx((1 + 0.5 + 0 + 0 + 0.5 + 1) / 6)


def test_kappa_is_not_defined_where_two_always_say_the_same_one_thing(run, tmp_path):
    _, key = exported(run)
    files = [returned(tmp_path, key, name, [TUNED] * 4) for name in ("ann", "ben")]
    (pair,) = import_reviews(run, files)[0].agreement
    assert (pair.kappa.value, pair.kappa.n) == (None, 4)


def test_people_who_judged_different_pairs_share_none(run, tmp_path):
    _, key = exported(run)
    ann = returned(tmp_path, key, "ann", [TUNED, TUNED])
    ben = returned(tmp_path, key, "ben", [None, None, BASE])
    results, _ = import_reviews(run, [ann, ben])
    assert results.agreement[0].kappa.n == 0
    assert (results.judged, results.pairs) == (3, 4)


def test_a_habit_of_choosing_the_first_shows(run, tmp_path):
    _, key = exported(run, 12)
    answers = [{"item": name, "choice": "1", "seconds": 1} for name in key.items]
    path = returned(tmp_path, key, "ann", [], answers=answers)
    results, _ = import_reviews(run, [path])
    assert results.raters["ann"].first_wins.value == 1
    assert 0 < results.outcomes[TUNED] < 12


def test_the_judges_verdicts_count_where_they_are_on_these_answers(run, tmp_path):
    _, key = exported(run)
    path = returned(tmp_path, key, "ann", [TUNED] * 4)
    assert import_reviews(run, [path])[0].judge is None
    rows = [
        {
            "sample": f"sample-{number:02d}",
            "split": "heldout",
            "winner": winner,
            "answers": {name: text_digest(text) for name, text in case(number).answers.items()},
        }
        for number, winner in enumerate([TUNED, BASE, "tie"])
    ]
    rows[1]["answers"] = {BASE: "0" * 16, TUNED: "0" * 16}
    folder = run / "judge"
    folder.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "hf-base_vs_hf-adapter.jsonl").write_text(lines)
    judge = import_reviews(run, [path])[0].judge
    assert (judge.agree.value, judge.agree.n) == (1, 1)
    assert (judge.second_ties, judge.missing) == (1, 2)


def refused(run, paths, match, error=ArtifactError):
    with pytest.raises(error, match=match) as caught:
        import_reviews(run, paths)
    assert caught.value.remedies
    assert not list((run / "review").glob("[0-9a-f]*[0-9a-f].json"))
    return caught.value


def test_a_file_of_another_sheet_is_refused(run, tmp_path):
    _, key = exported(run)
    path = returned(tmp_path, key, "ann", [TUNED], sheet="0" * 16)
    refused(run, [path], "no sheet '0000000000000000'")


def test_files_of_two_sheets_are_refused(run, tmp_path):
    _, key = exported(run)
    _, other = exported(run, seed="another")
    ann = returned(tmp_path, key, "ann", [TUNED])
    ben = returned(tmp_path, other, "ben", [TUNED])
    refused(run, [ann, ben], "is of sheet", ConfigError)


def test_one_person_counts_once(run, tmp_path):
    _, key = exported(run)
    path = returned(tmp_path, key, "ann", [TUNED])
    refused(run, [path, path], "both by 'ann'", ConfigError)


def test_a_pair_answered_twice_or_unknown_is_named(run, tmp_path):
    _, key = exported(run)
    one = next(iter(key.items))
    answers = [{"item": name, "choice": "1"} for name in (one, one, "ffffffffffff")]
    error = refused(run, [returned(tmp_path, key, "ann", [], answers=answers)], "does not fit")
    assert error.problems == (
        f"{one} is answered 2 times",
        "ffffffffffff is no pair of this sheet",
    )


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"format": "else"},
        {"rater": ""},
        {"answers": [{"item": "x", "choice": "3"}]},
        {"answers": [{"item": "x", "choice": "1", "seconds": -1}]},
        {"more": 1},
        {"sheet": "../../x"},
    ],
)
def test_what_no_sheet_writes_is_refused(run, tmp_path, change):
    _, key = exported(run)
    path = returned(tmp_path, key, "ann", [TUNED], **change)
    refused(run, [path], "is not what a sheet lets people download")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_damaged_files_are_refused(run, tmp_path, content):
    exported(run)
    path = tmp_path / "x.json"
    path.write_bytes(content)
    refused(run, [path], "is not what a sheet lets people download")


def test_a_changed_key_is_refused(run, tmp_path):
    sheet, key = exported(run)
    swapped = sheet.key.read_text().replace(f'"first": "{BASE}"', f'"first": "{TUNED}"')
    sheet.key.write_text(swapped)
    refused(run, [returned(tmp_path, key, "ann", [TUNED])], "was changed")


def test_no_file_is_told(run):
    refused(run, [], "no file to import", ConfigError)


def test_the_median_of_an_even_number_of_times_lies_between_two(run, tmp_path):
    _, key = exported(run, 4)
    path = returned(tmp_path, key, "ann", [BASE] * 4)
    content = json.loads(path.read_text())
    for answer, seconds in zip(content["answers"], (10, 1, 2, 3), strict=True):
        answer["seconds"] = seconds
    path.write_text(json.dumps(content))
    results, _ = import_reviews(run, [path])
    assert results.raters["ann"].median_seconds == 2.5
