"""A table's metrics: cells, neighbours, structure, answers that hold no table, hostile answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmpipe.tasks import TASKS, mean_metrics
from vlmpipe.tasks.html_tables import parse_table
from vlmpipe.tasks.table.cells import GridCell, neighbours, placed_cells
from vlmpipe.tasks.table.form import Cell, written
from vlmpipe.tasks.table.metrics import table_metrics

GIVEN = (
    "<table><tr><th>Item</th><th>Mass</th></tr><tr><td>tin</td><td>5</td></tr>"
    "<tr><td>zinc</td><td>9</td></tr></table>"
)
"""Six cells; three pairs of neighbours in rows and four in columns."""

OF_CELLS = ("cell_accuracy", "cell_f1", "adjacency_f1")


def pairs(table: str) -> dict[tuple[str, str, str], int]:
    return dict(neighbours(placed_cells(parse_table(table))))


CELLS = st.builds(
    Cell,
    text=st.sampled_from(["", "a", "b", "12", "가 나", "<&>"]),
    colspan=st.sampled_from([1, 1, 1, 2]),
    rowspan=st.sampled_from([1, 1, 1, 3]),
    header=st.booleans(),
)
TABLES = st.lists(st.lists(CELLS, min_size=1, max_size=4), min_size=1, max_size=4).map(
    lambda rows: written([cell.html() for cell in row] for row in rows)
)


@pytest.mark.parametrize(
    ("changed", "accuracy", "f1", "adjacency"),
    [
        pytest.param(GIVEN, 1, 1, 1, id="equal"),
        # Two neighbours to the right or left and above or below lose a text.
        pytest.param(GIVEN.replace(">5<", ">6<"), 5 / 6, 5 / 6, 4 / 7, id="a wrong text"),
        pytest.param(
            GIVEN.replace("<tr><td>zinc</td><td>9</td></tr>", ""),
            4 / 6, 2 * 4 / (4 + 6), 2 * 4 / (4 + 7), id="the last row missing",
        ),
        pytest.param(
            GIVEN.replace("<tr><td>tin</td><td>5</td></tr>", ""),
            2 / 6, 2 * 2 / (4 + 6), 2 * 2 / (4 + 7), id="a row missing in the middle",
        ),
        pytest.param(
            GIVEN.replace("</table>", "<tr><td>x</td><td>y</td></tr></table>"),
            1, 2 * 6 / (8 + 6), 2 * 7 / (10 + 7), id="a row too many",
        ),
        pytest.param(
            "<table><tr><td>x</td><td>y</td></tr>" + GIVEN[7:],
            0, 0, 2 * 7 / (10 + 7), id="all rows one too low",
        ),
        pytest.param("<table></table>", 0, 0, 0, id="no cell"),
        pytest.param("words", 0, 0, 0, id="no table"),
    ],
)  # fmt: skip
def test_known_answers(changed: str, accuracy: float, f1: float, adjacency: float) -> None:
    found = table_metrics(changed, GIVEN)
    expected = dict(zip(OF_CELLS, (accuracy, f1, adjacency), strict=True))
    assert {name: found[name] for name in OF_CELLS} == pytest.approx(expected)


def test_neighbours_are_the_nearest_cells_with_text() -> None:
    table = "<table><tr><td>a</td><td></td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>"
    assert pairs(table) == {
        ("a", "b", "right"): 1,
        ("c", "d", "right"): 1,
        ("a", "c", "below"): 1,
    }


def test_a_merged_cell_has_all_the_neighbours_along_its_sides_each_once() -> None:
    table = (
        '<table><tr><td rowspan="2">a</td><td colspan="2">b</td></tr>'
        "<tr><td>c</td><td>d</td></tr></table>"
    )
    assert pairs(table) == {
        ("a", "b", "right"): 1,
        ("a", "c", "right"): 1,
        ("c", "d", "right"): 1,
        ("b", "c", "below"): 1,
        ("b", "d", "below"): 1,
    }


def test_equal_pairs_of_neighbours_count_as_often_as_they_occur() -> None:
    table = "<table>" + "<tr><td>a</td><td>b</td></tr>" * 3 + "</table>"
    assert pairs(table) == {("a", "b", "right"): 3, ("a", "a", "below"): 2, ("b", "b", "below"): 2}


def test_neighbours_are_left_out_where_the_reference_has_none() -> None:
    one_cell = "<table><tr><td>a</td></tr></table>"
    assert "adjacency_f1" not in table_metrics(GIVEN, one_cell)
    assert table_metrics(one_cell, GIVEN)["adjacency_f1"] == 0.0
    rows = [table_metrics(one_cell, one_cell), table_metrics(GIVEN, GIVEN)]
    assert mean_metrics(rows)["adjacency_f1"] == 1.0


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        pytest.param(GIVEN, 1.0, id="equal"),
        pytest.param(GIVEN.replace("tin", "copper"), 1.0, id="another text"),
        pytest.param(GIVEN.replace("th>", "td>"), 0.0, id="no header cells"),
        pytest.param(GIVEN.replace("<td>tin", '<td colspan="2">tin'), 0.0, id="another span"),
        pytest.param(GIVEN.replace("<td>5</td>", ""), 0.0, id="a cell missing"),
    ],
)
def test_structures_match_or_they_do_not(changed: str, match: float) -> None:
    found = table_metrics(changed, GIVEN)
    assert found["structure_match"] == match
    assert (found["teds_structure"] == 1.0) is bool(match)


@pytest.mark.parametrize(
    ("prediction", "well_formed"),
    [
        (GIVEN, 1.0),
        (GIVEN.removesuffix("</td></tr></table>"), 1.0),
        ("", 0.0),
        ("Item Mass", 0.0),
        (GIVEN.replace("<td>tin", '<td colspan="two">tin'), 0.0),
        (GIVEN.replace("<td>tin", '<td rowspan="0">tin'), 0.0),
    ],
)
def test_answers_that_cannot_be_compared_score_nothing_and_are_counted(
    prediction: str, well_formed: float
) -> None:
    found = table_metrics(prediction, GIVEN)
    assert found["well_formed"] == well_formed
    if not well_formed:
        assert not any(found.values())
    assert table_metrics(GIVEN, prediction)["well_formed"] == 1.0


@settings(max_examples=50, deadline=None)
@given(TABLES)
def test_a_table_is_right_against_itself(table: str) -> None:
    assert set(table_metrics(table, table).values()) == {1.0}


@settings(max_examples=80, deadline=None)
@given(TABLES, TABLES)
def test_metrics_are_shares_and_symmetric_where_they_should_be(first: str, second: str) -> None:
    there, back = table_metrics(first, second), table_metrics(second, first)
    assert all(0.0 <= value <= 1.0 for value in there.values())
    assert there["cell_f1"] <= 2 * there["cell_accuracy"]
    for name in ("teds", "teds_structure", "structure_match", "cell_f1", "adjacency_f1"):
        if name in there and name in back:
            assert there[name] == pytest.approx(back[name])


def test_rows_that_a_span_reaches_beyond_do_not_exist() -> None:
    cells = [GridCell("a", 0, 0, 1000, 1), GridCell("b", 0, 1, 1000, 1)]
    assert neighbours(cells) == {("a", "b", "right"): 1}


def test_neighbours_of_enormous_spans_are_not_sought() -> None:
    cells = [GridCell("a", 0, column * 1000, 1, 1000) for column in range(1100)]
    assert not neighbours(cells)
    assert neighbours(cells[:100])


@pytest.mark.slow
@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param("words " * 170_000, id="words"),
        pytest.param("<table>" + "<tr><td>1" * 110_000, id="rows"),
        pytest.param("<table>" + "<tr><td>1" * 9_999 + "1" * 900_000, id="as many rows as may be"),
        pytest.param("<table><tr>" + "<td>" * 250_000, id="cells"),
        pytest.param("<table><tr><td>" + "x1" * 500_000, id="one long cell"),
        pytest.param("<table><tr><td>" * 66_000, id="nested tables"),
        pytest.param("<table><tr><td>" + "<b>" * 330_000, id="nested tags"),
        pytest.param('<table><tr><td colspan="1000" rowspan="1000">1' * 22_000, id="spans"),
        pytest.param('<table><tr><td colspan="' + "9" * 1_000_000, id="a long span"),
        pytest.param("\x00\ud800" * 500_000 + GIVEN, id="odd characters"),
        pytest.param("<" * 1_000_000, id="brackets"),
    ],
)
def test_a_megabyte_of_anything_is_measured(hostile: str) -> None:
    found = TASKS["table"].measure(hostile, GIVEN)
    assert all(0.0 <= value <= 1.0 for name, value in found.items() if name != "cer")
