"""The table generator's texts, and how an answer is read: one form, cells counted, difficulty."""

from __future__ import annotations

import hashlib
import json
import random
import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_files import SHARED_DATA
from vlmpipe.encoding.conversation import Sample
from vlmpipe.tasks import TASKS
from vlmpipe.tasks.html_tables import parse_table, shape_of
from vlmpipe.tasks.table.form import Cell, written
from vlmpipe.tasks.table.layout import places
from vlmpipe.tasks.table.synthetic import Grid, random_grid

TABLE = TASKS["table"]
LEVELS = {"easy": (0.0, 0.33), "medium": (0.34, 0.66), "hard": (0.67, 1.0)}
FIRST_STEPS = (0.0, 0.15)


def samples(level: str, count: int = 12) -> list[Sample]:
    return [TABLE.generate(index, 11, LEVELS[level]) for index in range(count)]


@cache
def references(bounds: tuple[float, float], count: int = 60) -> list[str]:
    return [TABLE.generate(index, 4, bounds).reference for index in range(count)]


def texts(table: str) -> list[str]:
    return re.findall(r"<t[dh][^>]*>([^<]*)<", table)


def accuracy(prediction: str, reference: str) -> float:
    return TABLE.measure(prediction, reference)["cell_accuracy"]


def test_targets_are_the_same_on_every_machine() -> None:
    targets = "\n".join(TABLE.generate(index, 42, (0.0, 1.0)).reference for index in range(20))
    assert hashlib.sha256(targets.encode()).hexdigest() == (
        "32fc8d8f303e3bd3660e340b39da57b8d957d4d2f570c83207a361fe3828ed46"
    )


def test_seed_and_index_both_matter() -> None:
    found = {
        TABLE.generate(index, seed, (0.3, 0.5)).reference for index in range(5) for seed in range(5)
    }
    assert len(found) == 25


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: (min(pair), max(pair))),
)
def test_measured_difficulty_lies_in_the_range_or_near_it(
    index: int, bounds: tuple[float, float]
) -> None:
    sample = TABLE.generate(index, 3, bounds)
    assert sample.difficulty == TABLE.difficulty(sample.reference)
    # Tables come in whole rows: a narrow range may hold none.
    assert bounds[0] - 0.06 <= sample.difficulty <= bounds[1] + 0.06


@pytest.mark.parametrize("level", LEVELS)
def test_a_wide_range_is_always_met(level: str) -> None:
    low, high = LEVELS[level]
    assert all(low <= sample.difficulty <= high for sample in samples(level, 30))


def test_first_steps_are_small_tables_of_short_cells() -> None:
    tables = references(FIRST_STEPS)
    for table in tables:
        shape = shape_of(parse_table(table))
        assert 2 <= shape.rows <= 4
        assert 2 <= shape.columns <= 3
        assert shape.spans == 0
        assert all(len(text) <= 6 for text in texts(table))
    with_headings = sum("<th>" in table for table in tables)
    assert 0.3 < with_headings / len(tables) < 0.7
    cells = [text for table in tables for text in texts(table)]
    assert cells.count("") < 0.03 * len(cells)


def test_levels_differ_in_kind() -> None:
    easy, medium, hard = ([s.reference for s in samples(level, 30)] for level in LEVELS)
    assert not any("span=" in table for table in easy + medium)
    assert all("span=" in table for table in hard)
    assert max(len(text) for table in easy for text in texts(table)) <= 12
    assert any(len(text) > 20 for table in medium for text in texts(table))


@pytest.mark.parametrize(
    "pattern",
    [r"\d,\d{3}", r"\d\.\d", r"\d%", r"[₩$€]\d", r"\d원", r"\d (mg|kg|g|mm|cm|m|km|s|ms|h|L|mL)$",
     r"\((mg|kg|°C|mm|s|km)\)", r"^-\d", r"^[A-Z][a-z]+$", r"^[가-힣]+$", r"^$"],
)  # fmt: skip
def test_numbers_units_words_and_empty_cells_all_occur(pattern: str) -> None:
    cells = [text for table in references((0.3, 1.0)) for text in texts(table)]
    assert any(re.search(pattern, text) for text in cells)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_a_table_is_asked_for_in_its_language(language: str) -> None:
    made = [TABLE.generate(index, 2, (0.2, 0.6), [language]) for index in range(20)]
    assert all(s.messages[0].text == TABLE.instructions[language] for s in made)
    korean = [bool(re.search("[가-힣]", s.reference)) for s in made]
    assert any(korean) is (language == "ko")


def test_both_languages_are_drawn() -> None:
    asked = {TABLE.generate(index, 1, (0.0, 1.0)).messages[0].text for index in range(12)}
    assert asked == set(TABLE.instructions.values())


def test_headings_of_a_table_differ() -> None:
    for index in range(30):
        grid = random_grid(random.Random(index), 0.4)
        headings = [cell.text for cell in grid.rows[0] if cell.header]
        assert len(headings) == len(set(headings))


@pytest.mark.parametrize("level", LEVELS)
def test_target_is_a_whole_table_in_its_one_form(level: str) -> None:
    for sample in samples(level):
        shape = shape_of(parse_table(sample.reference))
        assert shape.rows >= 2
        assert shape.columns >= 2
        assert TABLE.canonical(sample.reference) == sample.reference
        assert TABLE.measure(sample.reference, sample.reference) == {
            "teds": 1.0,
            "teds_structure": 1.0,
            "structure_match": 1.0,
            "cell_accuracy": 1.0,
            "cell_f1": 1.0,
            "adjacency_f1": 1.0,
            "well_formed": 1.0,
            "exact_match": 1.0,
            "agreement": 1.0,
            "cer": 0.0,
        }


def covered(grid: Grid) -> list[tuple[int, int]]:
    return [
        (y + down, x + right)
        for (y, x), cell in places(grid.rows).items()
        for down in range(cell.rowspan)
        for right in range(cell.colspan)
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_cells_fill_their_table_without_holes_or_overlaps(seed: int, difficulty: float) -> None:
    grid = random_grid(random.Random(seed), difficulty, "ko")
    whole = {(y, x) for y in range(len(grid.rows)) for x in range(grid.columns)}
    found = covered(grid)
    assert set(found) == whole
    assert len(found) == len(whole)


def test_sample_is_a_question_with_an_image_and_its_answer() -> None:
    sample = TABLE.generate(4, 9, (0.0, 0.2), ["en"])
    assert [message.role for message in sample.messages] == ["user", "assistant"]
    assert sample.images[0].mode == "RGB"
    assert sample.messages[0].text == "Convert the table in the image to HTML."
    assert sample.id == "table-9-000004"
    assert (sample.task, sample.reference[:7]) == ("table", "<table>")


def even(rows: int, columns: int, text: str, wide: int = 0) -> str:
    """A table of equal cells, the first `wide` rows of which begin with a merged cell."""
    return written(
        [Cell(text, colspan=1 + (x == 0 and y < wide)).html() for x in range(columns)]
        for y in range(rows)
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 25), st.integers(2, 10), st.integers(1, 12), st.integers(0, 2))
def test_difficulty_never_falls_with_rows_columns_text_or_spans(
    rows: int, columns: int, length: int, wide: int
) -> None:
    measured = TABLE.difficulty(even(rows, columns, "1" * length, wide))
    for more in (
        even(rows + 1, columns, "1" * length, wide),
        even(rows, columns + 1, "1" * length, wide),
        even(rows, columns, "1" * (length + 1), wide),
        even(rows, columns, "1" * length, wide + 1),
    ):
        assert TABLE.difficulty(more) >= measured


def test_difficulty_has_its_ends_where_it_says() -> None:
    assert TABLE.difficulty(even(2, 2, "1")) == 0.0
    assert TABLE.difficulty(even(20, 10, "a" * 10)) == pytest.approx(0.9)
    assert TABLE.difficulty(even(20, 10, "a" * 10, wide=8)) == 1.0
    assert 0.0 < TABLE.difficulty("words without any table at all") < 0.4


ONE_FORM = (
    '<table><tr><th colspan="2">a &lt; b</th></tr><tr><td>1</td><td>x<sup>2</sup></td></tr></table>'
)


@pytest.mark.parametrize(
    "answer",
    [
        ONE_FORM,
        f"Here it is:\n```html\n{ONE_FORM}\n```",
        ONE_FORM.replace("<tr>", '\n <tr class="row" style="color:red">\n  '),
        ONE_FORM.replace("<td>1", '<td id="q" onclick="x()" rowspan="1"> 1\n'),
        ONE_FORM.replace(">1<", "><b>1</b><!-- one --><"),
        ONE_FORM.replace("a &lt; b", "<p>a</p><p>&lt;\u00a0 b</p>"),
        ONE_FORM.replace("a &lt; b", "a<br>&#60; b"),
        ONE_FORM.replace("<table>", "<table><tbody>").replace("</table>", "</tbody></table>"),
        ONE_FORM.replace("<table>", "<table><thead>", 1)
        .replace("th", "td", 4)
        .replace("<tdead>", "<thead>")
        .replace("</tr><tr>", "</tr></thead><tr>"),
        ONE_FORM.removesuffix("</td></tr></table>"),
    ],
)
def test_tables_that_mean_the_same_have_one_form(answer: str) -> None:
    assert TABLE.canonical(answer) == ONE_FORM
    assert TABLE.render(answer) == ONE_FORM


@pytest.mark.parametrize(
    "answer",
    ["", "no table", "<table></table>", "<table><tr></tr></table>", "<tr><td>1</td></tr>",
     '<table><tr><td colspan="0">1</td></tr></table>', "<table><tr><td>" + "<i>" * 200],
)  # fmt: skip
def test_what_is_no_table_has_no_form(answer: str) -> None:
    assert TABLE.canonical(answer) is None
    assert TABLE.render(answer) is None


MARKUP = st.text("<>/ \"'=&;abtdrhou0123\u00a0가", max_size=40)


@settings(max_examples=25, deadline=None)
@given(MARKUP, MARKUP, MARKUP)
def test_a_rendered_answer_holds_bare_cells_and_nothing_else(a: str, b: str, c: str) -> None:
    shown = TABLE.render(f"{a}<table><tr><td {b}>{c}</td><td><script>{a}</script>")
    if shown is None:
        return
    tag = r'</?(?:table|tr|td|th|sup|sub)(?: (?:colspan|rowspan)="\d+")*>'
    assert "<" not in re.sub(tag, "", shown)
    assert TABLE.canonical(shown) == shown


GIVEN = "<table><tr><th>Item</th><th>Mass</th></tr><tr><td>tin</td><td>1,200 kg</td></tr></table>"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param(GIVEN, 1.0, id="equal"),
        pytest.param(GIVEN.replace("1,200", "1,300"), 0.75, id="a digit"),
        pytest.param(GIVEN.replace("th>", "td>"), 1.0, id="headings are cells"),
        pytest.param(GIVEN.replace("1,200 kg", " 1,200\n kg"), 1.0, id="white space"),
        pytest.param(GIVEN.replace("<td>tin</td>", ""), 0.5, id="pushed to the left"),
        pytest.param(GIVEN.replace("<td>tin", '<td colspan="2">tin'), 0.5, id="another span"),
        pytest.param(GIVEN.replace("<th>Item", '<th rowspan="2">Item'), 0.25, id="pushed aside"),
        pytest.param("<table><tr><td></td></tr>" + GIVEN[7:], 0.0, id="a row too many on top"),
        pytest.param("no table", 0.0, id="no table"),
    ],
)
def test_cells_are_right_in_their_place_only(changed: str, expected: float) -> None:
    assert accuracy(changed, GIVEN) == expected


def test_a_hostile_table_of_huge_spans_is_counted_at_once() -> None:
    cells = '<td colspan="1000" rowspan="1000">1</td>' * 300
    hostile = f"<table><tr>{cells}</tr>{'<tr><td>2</td></tr>' * 300}</table>"
    assert accuracy(hostile, GIVEN) == 0.0
    assert len(places([[Cell("1", 1000, 1000)] * 300, *[[Cell("2")]] * 300])) == 600


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared sample data is not here")
def test_real_tables_spread_over_the_scale_and_keep_every_cell_in_their_one_form() -> None:
    lines = (SHARED_DATA / "tables_pubtabnet" / "samples.jsonl").read_text().splitlines()
    answers = [json.loads(line)["messages"][-1]["content"][0]["text"] for line in lines]
    hard = [TABLE.difficulty(answer) for answer in answers]
    assert max(hard) - min(hard) > 0.3
    assert all(0.2 < each < 1.0 for each in hard)
    for answer in answers:
        in_one_form = TABLE.canonical(answer)
        assert in_one_form is not None
        assert accuracy(in_one_form, answer) == 1.0
