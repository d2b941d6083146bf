"""Tables as they are drawn: every text in its box, nothing clipped, no larger than a page."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmpipe.drawing.fonts import faces
from vlmpipe.errors import StageError
from vlmpipe.tasks import TASKS
from vlmpipe.tasks.table.columns import random_column
from vlmpipe.tasks.table.drawing import draw_table
from vlmpipe.tasks.table.form import Cell
from vlmpipe.tasks.table.placing import MIN_SIDE, PAGE, SMALLEST_PRINT, PlacedTable, place_table
from vlmpipe.tasks.table.style import ALIGNMENTS, BOLD, NO_WRAP, RULES, Style, random_style
from vlmpipe.tasks.table.synthetic import Grid, random_grid

TABLE = TASKS["table"]
LANGUAGES = ("en", "ko")
PLAIN = Style(
    face="sans",
    bold="sans-bold",
    font_size=20,
    padding=6,
    margin=10,
    line_width=2,
    rules="grid",
    alignment="l",
    wrap=NO_WRAP,
    ink=(0, 0, 0),
    paper=(255, 255, 255),
    header_fill=None,
)
DIGEST_PROGRAM = """
import hashlib
from vlmpipe.tasks import TASKS
samples = [TASKS["table"].generate(i, 3, (0.0, 1.0)) for i in range(6)]
data = b"".join(s.images[0].tobytes() + s.reference.encode() for s in samples)
print(hashlib.sha256(data).hexdigest())
"""


def grid_of(*rows: list[str | Cell]) -> Grid:
    cells = [[Cell(each) if isinstance(each, str) else each for each in row] for row in rows]
    return Grid(tuple(map(tuple, cells)), max(map(len, cells)))


def drawn_by_lot(seed: int, difficulty: float, language: str) -> PlacedTable:
    rng = random.Random(seed)
    grid = random_grid(rng, difficulty, language)
    spans = any(cell.colspan > 1 or cell.rowspan > 1 for row in grid.rows for cell in row)
    return place_table(grid, random_style(rng, difficulty, grid.text(), spans=spans))


def levels(table: PlacedTable) -> np.ndarray:
    return np.asarray(draw_table(table).convert("L")).astype(int)


def without_text(table: PlacedTable) -> PlacedTable:
    cells = tuple(replace(cell, lines=()) for cell in table.cells)
    return replace(table, cells=cells)


def inked(table: PlacedTable) -> np.ndarray:
    """Where letters are, rules and shades left out."""
    return levels(table) != levels(without_text(table))


tables = st.builds(drawn_by_lot, st.integers(0, 10**6), st.floats(0, 1), st.sampled_from(LANGUAGES))


def test_another_process_draws_the_same_pixels() -> None:
    made = [TABLE.generate(index, 3, (0.0, 1.0)) for index in range(6)]
    data = b"".join(s.images[0].tobytes() + s.reference.encode() for s in made)
    told = subprocess.run(
        [sys.executable, "-c", DIGEST_PROGRAM], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == hashlib.sha256(data).hexdigest()


@settings(max_examples=25, deadline=None)
@given(tables)
def test_letters_stand_in_the_boxes_of_cells_that_have_text_and_nowhere_else(
    table: PlacedTable,
) -> None:
    letters = inked(table)
    for placed in table.cells:
        left, top, right, bottom = placed.box
        inside = letters[top + 2 : bottom, left + 2 : right]
        assert inside.any() == bool(placed.cell.text)
        letters[top + 2 : bottom, left + 2 : right] = False
    assert not letters.any()


@settings(max_examples=25, deadline=None)
@given(tables)
def test_the_margin_stays_blank(table: PlacedTable) -> None:
    edge = table.style.margin - 2
    image = levels(table)
    image[edge:-edge, edge:-edge] = table.style.paper[0]
    assert (image == table.style.paper[0]).all()


@settings(max_examples=25, deadline=None)
@given(tables)
def test_lines_of_a_cell_are_its_text_and_boxes_stay_apart(table: PlacedTable) -> None:
    width, height = table.size
    covered = np.zeros((height, width), dtype=int)
    for placed in table.cells:
        assert " ".join(placed.lines) == placed.cell.text
        left, top, right, bottom = placed.box
        covered[top:bottom, left:right] += 1
    first, last = table.cells[0].box, [max(each.box[i] for each in table.cells) for i in (2, 3)]
    assert (covered[first[1] : last[1], first[0] : last[0]] == 1).all()
    assert covered.max() == 1


@settings(max_examples=25, deadline=None)
@given(tables)
def test_a_picture_is_no_larger_than_a_page_and_no_smaller_than_four_tokens(
    table: PlacedTable,
) -> None:
    assert all(MIN_SIDE <= side <= most for side, most in zip(table.size, PAGE, strict=True))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("face", BOLD)
def test_the_largest_table_of_the_generator_has_its_place_on_a_page(
    face: str, language: str
) -> None:
    if language == "ko" and not faces()[face].korean:
        return
    rng = random.Random(1)
    for columns in (8, 10):
        kinds = ["word"] * 3 + ["measure"] * (columns - 4) + ["phrase"]
        made = [random_column(rng, kind, 12, language) for kind in kinds]
        widest = [max((column.cell(rng) for _ in range(60)), key=len) for column in made]
        grid = grid_of(*[list(widest)] * (1 + round(200 / columns)))
        for wrap in (12, 16):
            style = replace(PLAIN, face=face, bold=BOLD[face], padding=10, margin=14, wrap=wrap)
            placed = place_table(grid, replace(style, font_size=SMALLEST_PRINT + 1))
            assert placed.style.font_size >= SMALLEST_PRINT


def test_print_is_large_at_the_easy_end_and_pictures_are_small() -> None:
    for seed in range(60):
        table = drawn_by_lot(seed, 0.15, LANGUAGES[seed % 2])
        assert table.style.font_size >= 16
        assert table.size[0] <= 448
        assert table.size[1] <= 336


def test_a_full_page_is_printed_smaller() -> None:
    wide = grid_of(*[["a dozen words"] * 12] * 3)
    table = place_table(wide, PLAIN)
    assert SMALLEST_PRINT <= table.style.font_size < PLAIN.font_size
    assert table.size[0] <= PAGE[0]


@pytest.mark.parametrize(
    "grid", [grid_of(*[["1"] * 2] * 400), grid_of(["1" * 20] * 40), grid_of(["a" * 400] * 2)]
)
def test_a_table_that_no_page_holds_is_refused(grid: Grid) -> None:
    with pytest.raises(StageError, match=rf"{len(grid.rows)} rows and {grid.columns}") as refused:
        place_table(grid, PLAIN)
    assert "1240 × 1754" in str(refused.value)
    assert "split the table" in str(refused.value)


@pytest.mark.parametrize("character", ["中", "😀", "\u0e01"])
def test_a_character_that_no_font_has_is_refused_by_name(character: str) -> None:
    with pytest.raises(StageError, match=f"U\\+{ord(character):04X}"):
        random_style(random.Random(1), 0.5, f"가 {character}", spans=False)


@pytest.mark.parametrize("text", ["1,234.5 kg", "수량 ₩12,000", "25°C €3"])
def test_a_face_is_chosen_that_has_every_character(text: str) -> None:
    for seed in range(20):
        style = random_style(random.Random(seed), 0.5, text, spans=False)
        assert not faces()[style.face].lacks(text)
        assert not faces()[style.bold].lacks(text)


def test_headings_are_bold_or_shaded() -> None:
    for seed in range(40):
        style = random_style(random.Random(seed), 0.3, "Item", spans=False)
        assert style.bold != style.face or style.header_fill is not None


@pytest.mark.parametrize("fill", [None, (222, 222, 222), (47, 84, 150)])
def test_a_heading_looks_unlike_a_cell_of_the_same_text(fill: tuple[int, int, int] | None) -> None:
    style = replace(PLAIN, header_fill=fill)
    table = place_table(grid_of([Cell("Name", header=True)] * 2, ["Name", "Name"]), style)
    boxes = [cell.box for cell in table.cells]
    image = levels(table)
    head, body = (image[b[1] + 2 : b[3], b[0] + 2 : b[2]] for b in (boxes[0], boxes[2]))
    assert (head != body).mean() > 0.03


def lines_across(rules: str) -> tuple[int, int]:
    """Full lines of ink of a 3 x 2 table: lying, standing."""
    grid = grid_of([Cell("a", header=True)] * 2, ["b", "c"], ["d", "e"])
    table = place_table(grid, replace(PLAIN, rules=rules, line_width=1))
    (left, top, *_), (*_, right, bottom) = table.cells[0].box, table.cells[-1].box
    dark = levels(table) == 0
    return (
        int(dark[:, left:right].all(axis=1).sum()),
        int(dark[top:bottom].all(axis=0).sum()),
    )


def test_rules_are_drawn_as_they_are_called() -> None:
    assert {rules: lines_across(rules) for rules in RULES} == {
        "grid": (4, 3),
        "rows": (4, 0),
        "book": (3, 0),
        "none": (0, 0),
        "stripes": (0, 0),
    }


def test_stripes_shade_every_other_row_below_the_headings() -> None:
    grid = grid_of([Cell("a", header=True)] * 2, ["b", "c"], ["d", "e"], ["f", "g"])
    table = place_table(grid, replace(PLAIN, rules="stripes"))
    image = levels(table)
    corners = [image[cell.box[1] + 1, cell.box[0] + 1] for cell in table.cells[::2]]
    assert [int(each) for each in corners] == [255, 255, 237, 255]


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_texts_stand_where_the_alignment_says(alignment: str) -> None:
    grid = grid_of(["mmmmmmmmmm", "mmmmmmmmmm"], ["1", "1"])
    table = place_table(grid, replace(PLAIN, alignment=alignment))
    letters = inked(table)
    for column, placed in enumerate(table.cells[2:]):
        left, top, right, bottom = placed.box
        found = np.flatnonzero(letters[top:bottom, left:right].any(axis=0))
        middle = (found[0] + found[-1]) / 2 / (right - left)
        low, high = {"l": (0, 0.3), "m": (0.4, 0.6), "r": (0.7, 1)}[table.style.align(column)]
        assert low <= middle <= high


def test_a_long_text_wraps_between_words_and_its_row_grows() -> None:
    long = "수출 해지 프린터 감귤 고무 유리 온도"
    table = place_table(
        grid_of([long, "1"], ["짧다", "2"]), replace(PLAIN, face="gothic", bold="gothic", wrap=8)
    )
    first, *_, last = table.cells
    assert len(first.lines) >= 3
    assert " ".join(first.lines) == long
    assert first.box[3] - first.box[1] > 2 * (last.box[3] - last.box[1])
