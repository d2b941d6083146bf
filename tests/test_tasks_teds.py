"""TEDS against known answers, against the reference implementation, and on hostile input."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence

import pytest

from vlmpipe.tasks.html_tables import TableError, parse_table, shape_of
from vlmpipe.tasks.teds import edit_distance, teds

TWO_BY_TWO = "<table><tr><td>a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>"
"""Seven nodes: table, two rows, four cells."""


def random_table(rng: random.Random, rows: int, columns: int) -> str:
    spans = ("", "", "", ' colspan="2"', ' rowspan="3"')
    texts = ("<b>a</b> x", "12", "foo", "", " y", "x<sup>2</sup>")
    lines = [
        "<tr>"
        + "".join(f"<td{rng.choice(spans)}>{rng.choice(texts)}</td>" for _ in range(columns))
        + "</tr>"
        for _ in range(rows)
    ]
    if rng.random() < 0.5:
        return f"<table><thead>{lines[0]}</thead><tbody>{''.join(lines[1:])}</tbody></table>"
    return f"<table>{''.join(lines)}</table>"


def random_pairs(
    count: int, seed: int = 5, rows: int = 5, columns: int = 4
) -> list[tuple[str, str]]:
    """Tables of at most so many rows and columns beside a faulty copy or another table."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        first = random_table(rng, rng.randint(1, rows), rng.randint(1, columns))
        lines = first.split("<tr>")
        near = (
            first.replace("foo", "fo", 1).replace("<td>12</td>", "", 1),
            "<tr>".join([lines[0], *rng.sample(lines[1:], k=len(lines) - 1)]),
            first[: rng.randint(len(first) // 2, len(first))],
            first.replace("</td></tr><tr><td>", "</td><td>", 1),
        )
        far = random_table(rng, rng.randint(1, rows), rng.randint(1, columns))
        pairs.append((first, rng.choice((*near, far))))
    return pairs


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param(TWO_BY_TWO, 1.0, id="equal"),
        pytest.param(TWO_BY_TWO.replace(">d<", ">x<"), 1 - 1 / 7, id="one cell's text"),
        pytest.param(TWO_BY_TWO.replace("<td>d</td>", ""), 1 - 1 / 7, id="a cell missing"),
        pytest.param(
            TWO_BY_TWO.replace("<td>d", '<td colspan="2">d'), 1 - 1 / 7, id="another span"
        ),
        pytest.param(TWO_BY_TWO.replace("td>", "th>", 2), 1 - 1 / 7, id="a header cell"),
        pytest.param(
            TWO_BY_TWO.replace("<tr><td>c</td><td>d</td></tr>", ""), 1 - 3 / 7, id="a row missing"
        ),
        pytest.param("<table></table>", 1 - 6 / 7, id="no row at all"),
    ],
)
def test_known_answers(changed: str, expected: float) -> None:
    assert teds(changed, TWO_BY_TWO) == pytest.approx(expected)
    assert teds(TWO_BY_TWO, changed) == pytest.approx(expected)


def test_text_of_a_cell_counts_by_its_normalised_edit_distance() -> None:
    reference = "<table><tr><td>1234</td></tr></table>"
    assert teds(reference.replace("1234", "1235"), reference) == pytest.approx(1 - 0.25 / 3)
    assert teds(reference.replace("1234", "1235"), reference, structure_only=True) == 1.0


def test_text_of_header_cells_is_compared() -> None:
    reference = "<table><tr><th>name</th></tr></table>"
    assert teds(reference.replace("name", "mane"), reference) == pytest.approx(1 - 0.5 / 3)


def test_inner_tags_are_one_token_each() -> None:
    plain, bold = (f"<table><tr><td>{text}</td></tr></table>" for text in ("ab", "<b>ab</b>"))
    assert teds(plain, bold) == pytest.approx(1 - (2 / 4) / 3)


def test_composed_and_decomposed_korean_are_the_same_text() -> None:
    composed, decomposed = "<table><tr><td>\ud55c</td></tr></table>", "\u1112\u1161\u11ab"
    assert teds(composed.replace("\ud55c", decomposed), composed) == 1.0


@pytest.mark.parametrize(
    "wrapped",
    [
        f"<html><body>{TWO_BY_TWO}</body></html>",
        f"```html\n{TWO_BY_TWO}\n```",
        f"Here is the table:\n<div>{TWO_BY_TWO}</div>",
        TWO_BY_TWO.replace("<tr>", "\n  <tr>").replace("<!---->", ""),
        TWO_BY_TWO.replace("<tr>", "<!-- a row --><tr>"),
        TWO_BY_TWO.removesuffix("</td></tr></table>"),
    ],
)
def test_what_surrounds_a_table_does_not_count(wrapped: str) -> None:
    assert teds(wrapped, TWO_BY_TWO) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "no table here",
        "<tr><td>a</td></tr>",
        "<!-- only a comment -->",
        "<?php ?>",
        '<table><tr><td colspan="two">a</td></tr></table>',
        '<table><tr><td rowspan="-1">a</td></tr></table>',
        '<table><tr><td colspan="0">a</td></tr></table>',
        '<table><tr><td colspan="²">a</td></tr></table>',
        f'<table><tr><td colspan="{"9" * 5000}">a</td></tr></table>',
        "<table><tr><td>" + "<b>" * 200 + "a",
        "<table><tr>" * 100,
        "<table>" + "<tr><td>" * 10_000,
        "<div>" * 10_000 + TWO_BY_TWO,
    ],
)
def test_what_holds_no_comparable_table_scores_nothing(text: str) -> None:
    assert teds(text, TWO_BY_TWO) == 0.0
    assert teds(TWO_BY_TWO, text) == 0.0


def test_odd_characters_do_not_stop_the_parser() -> None:
    odd = TWO_BY_TWO.replace(">a<", ">\ud800\x00a<")
    assert 0.5 < teds(odd, TWO_BY_TWO) < 1.0


def oracle_scores(pairs: Sequence[tuple[str, str]], structure_only: bool) -> list[float]:
    """Of table-recognition-metric, which falls below zero where costs exceed the larger tree."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from table_recognition_metric import TEDS
    score = TEDS(structure_only=structure_only)
    return [max(0.0, score(first, second)) for first, second in pairs]


def pages(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """In the only form in which the oracle finds tables; answers that are cut off stay so."""
    form = "<html><body>{}"
    return [(form.format(first), form.format(second)) for first, second in pairs]


@pytest.mark.parametrize("structure_only", [False, True])
def test_the_oracle_agrees_where_it_is_right(structure_only: bool) -> None:
    pairs = pages(random_pairs(80))
    found = [teds(first, second, structure_only=structure_only) for first, second in pairs]
    assert found == pytest.approx(oracle_scores(pairs, structure_only), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("structure_only", [False, True])
def test_the_oracle_agrees_on_more_and_larger_tables(structure_only: bool) -> None:
    pairs = pages([*random_pairs(250, seed=6), *random_pairs(12, seed=7, rows=14, columns=7)])
    found = [teds(first, second, structure_only=structure_only) for first, second in pairs]
    assert found == pytest.approx(oracle_scores(pairs, structure_only), abs=1e-9)


@pytest.mark.parametrize(
    "answer",
    [
        TWO_BY_TWO.replace("<td>c", "<td>c</td><td>c"),
        TWO_BY_TWO.removesuffix("d</td></tr></table>"),
        TWO_BY_TWO.replace("<td>a", "<td rowspan='2'>a<br><i>x</i>"),
        TWO_BY_TWO.replace("<tr>", "<caption>c</caption><thead><tr>", 1),
        "<table>" + "<tr><td>a</td><td>b</td></tr>" * 30 + "</table>",
        "<table><tr></tr><tr></tr></table>",
        "<table><colgroup><col><col></colgroup><tr><td>a b  c</td></tr></table>",
        "<table><td>a<td>b<tr><td>c",
    ],
)
def test_the_oracle_agrees_on_what_models_write(answer: str) -> None:
    pairs = pages([(answer, TWO_BY_TWO)])
    for structure_only in (False, True):
        found = teds(*pairs[0], structure_only=structure_only)
        assert [found] == pytest.approx(oracle_scores(pairs, structure_only), abs=1e-9)


def test_scores_are_symmetric_and_within_bounds() -> None:
    for first, second in random_pairs(40):
        score = teds(first, second)
        assert 0.0 <= score <= 1.0
        assert score == pytest.approx(teds(second, first))
        assert teds(first, first) == 1.0


def test_large_tables_are_scored_by_aligned_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"<tr><td>{n}</td><td>{n * n}</td><td>{n % 7}</td></tr>" for n in range(100)]
    reference = f"<table>{''.join(rows)}</table>"
    without_one_row = f"<table>{''.join(rows[:57] + rows[58:])}</table>"
    one_cell_wrong = reference.replace("<td>81</td>", "<td>91</td>", 1)
    exact = teds(without_one_row, reference), teds(one_cell_wrong, reference)
    tree = parse_table(reference)
    monkeypatch.setattr("vlmpipe.tasks.teds.score.MAX_EXACT_WORK", 10_000)
    assert edit_distance(tree, tree) is None
    assert teds(without_one_row, reference) == pytest.approx(1 - 4 / tree.size)
    assert teds(one_cell_wrong, reference) == pytest.approx(1 - (1 / 2) / tree.size)
    assert (teds(without_one_row, reference), teds(one_cell_wrong, reference)) == pytest.approx(
        exact
    )


def test_shape_counts_spans_and_characters_without_inner_tags() -> None:
    shape = shape_of(
        parse_table(
            '<table><thead><tr><th colspan="2">ab</th><th>c</th></tr></thead>'
            "<tbody><tr><td>1</td><td><b>2</b></td><td></td></tr></tbody></table>"
        )
    )
    assert (shape.rows, shape.columns, shape.characters, shape.spans) == (2, 3, 5, 1)


def test_a_text_without_a_table_says_why() -> None:
    with pytest.raises(TableError, match="no <table>"):
        parse_table("words")
