"""The table generator: the same everywhere, readable, true to its target, as hard as asked."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys

import numpy as np
import pytest

from data_files import SHARED_DATA
from vlmpipe.encoding.conversation import Sample
from vlmpipe.tasks import TASKS
from vlmpipe.tasks.html_tables import parse_table, shape_of
from vlmpipe.tasks.table.drawing import MIN_SIDE, draw_table, place_cells, random_style
from vlmpipe.tasks.table.synthetic import random_grid

TABLE = TASKS["table"]
LEVELS = {"easy": (0.0, 0.33), "medium": (0.34, 0.66), "hard": (0.67, 1.0)}
DIGEST_PROGRAM = """
import hashlib
from vlmpipe.tasks import TASKS
samples = [TASKS["table"].generate(i, 3, (0.0, 1.0)) for i in range(4)]
data = b"".join(s.images[0].tobytes() + s.reference.encode() for s in samples)
print(hashlib.sha256(data).hexdigest())
"""


def samples(level: str, count: int = 12) -> list[Sample]:
    return [TABLE.generate(index, 11, LEVELS[level]) for index in range(count)]


def test_targets_are_the_same_on_every_machine() -> None:
    targets = "\n".join(TABLE.generate(index, 42, (0.0, 1.0)).reference for index in range(20))
    assert hashlib.sha256(targets.encode()).hexdigest() == (
        "7c12aa14ab792a32c726236f3272f9cc682d0c1f02235b1d9ca563f386af3845"
    )


def test_another_process_draws_the_same_pixels() -> None:
    made = [TABLE.generate(index, 3, (0.0, 1.0)) for index in range(4)]
    data = b"".join(s.images[0].tobytes() + s.reference.encode() for s in made)
    told = subprocess.run(
        [sys.executable, "-c", DIGEST_PROGRAM], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == hashlib.sha256(data).hexdigest()


def test_seed_and_index_both_matter() -> None:
    references = {
        TABLE.generate(index, seed, (0.3, 0.5)).reference for index in range(5) for seed in range(5)
    }
    assert len(references) == 25


@pytest.mark.parametrize("level", LEVELS)
def test_measured_difficulty_lies_in_the_range_asked_for(level: str) -> None:
    low, high = LEVELS[level]
    for sample in samples(level):
        assert low <= sample.difficulty <= high
        assert sample.difficulty == TABLE.difficulty(sample.reference)


def test_a_range_of_one_point_gives_the_nearest_table() -> None:
    assert TABLE.generate(0, 1, (0.0, 0.0)).difficulty == 0.0
    assert TABLE.generate(0, 1, (0.5, 0.5)).difficulty == pytest.approx(0.5, abs=0.1)


def test_levels_differ_in_kind() -> None:
    easy = "".join(sample.reference for sample in samples("easy"))
    medium = "".join(sample.reference for sample in samples("medium"))
    cells = easy.replace("<table>", "").replace("</table>", "").replace("<tr>", "")
    assert not set(cells) & set("aeiou")
    assert "span" not in medium
    assert "e" in medium.replace("table", "")
    assert all("span=" in sample.reference for sample in samples("hard"))


@pytest.mark.parametrize("level", LEVELS)
def test_target_is_a_whole_table_of_its_own_shape(level: str) -> None:
    for sample in samples(level):
        shape = shape_of(parse_table(sample.reference))
        assert shape.rows >= 2
        assert shape.columns >= 2
        assert TABLE.measure(sample.reference, sample.reference) == {
            "teds": 1.0,
            "teds_structure": 1.0,
            "exact_match": 1.0,
            "agreement": 1.0,
            "cer": 0.0,
        }


@pytest.mark.parametrize("level", LEVELS)
def test_every_cell_is_drawn_inside_its_box_and_apart_from_the_others(level: str) -> None:
    low, high = LEVELS[level]
    for seed in range(6):
        rng = random.Random(seed)
        grid = random_grid(rng, rng.uniform(low, high))
        style = random_style(rng, low)
        cells, (width, height) = place_cells(grid, style)
        covered = np.zeros((height, width), dtype=int)
        for cell in cells:
            left, top, right, bottom = cell.box
            assert style.margin <= left < right <= width - style.margin
            assert style.margin <= top < bottom <= height - style.margin
            covered[top:bottom, left:right] += 1
        assert covered.max() == 1


@pytest.mark.parametrize("level", LEVELS)
def test_ink_stays_within_its_cell_and_the_margin_stays_blank(level: str) -> None:
    low, high = LEVELS[level]
    for seed in range(6):
        rng = random.Random(seed)
        grid = random_grid(rng, rng.uniform(low, high))
        style = random_style(rng, low)
        image = np.asarray(draw_table(grid, style).convert("L"))
        edge = style.margin - 2  # a line two pixels wide reaches one beyond its place
        inside = np.zeros(image.shape, dtype=bool)
        inside[edge:-edge, edge:-edge] = True
        assert (image[~inside] == style.paper).all()
        for cell in place_cells(grid, style)[0]:
            left, top, right, bottom = (
                side + 3 * sign for side, sign in zip(cell.box, (1, 1, -1, -1), strict=True)
            )
            field = image[top:bottom, left:right]
            assert field.min() < 100
            assert (field[:, :2] == style.paper).all()
            assert (field[:, -2:] == style.paper).all()
            assert (field[0] == style.paper).all()
            assert (field[-1] == style.paper).all()


def test_cells_of_a_table_fill_it_without_holes() -> None:
    for seed in range(6):
        rng = random.Random(seed)
        grid = random_grid(rng, 0.9)
        style = random_style(rng, 0.9)
        cells, _ = place_cells(grid, style)
        boxes = [cell.box for cell in cells]
        area = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
        whole = (max(b[2] for b in boxes) - min(b[0] for b in boxes)) * (
            max(b[3] for b in boxes) - min(b[1] for b in boxes)
        )
        assert area == whole


def test_images_are_modest() -> None:
    easiest = [TABLE.generate(index, 2, (0.0, 0.05)).images[0] for index in range(30)]
    hardest = [TABLE.generate(index, 2, (0.8, 1.0)).images[0] for index in range(5)]
    assert all(MIN_SIDE <= side <= 280 for image in easiest for side in image.size)
    assert all(side <= 1800 for image in hardest for side in image.size)


def test_sample_is_a_question_with_an_image_and_its_answer() -> None:
    sample = TABLE.generate(4, 9, (0.0, 0.2))
    assert [message.role for message in sample.messages] == ["user", "assistant"]
    assert sample.images[0].mode == "RGB"
    assert sample.messages[0].text == "Convert the table in the image to HTML."
    assert sample.id == "table-9-000004"
    assert (sample.task, sample.reference[:7]) == ("table", "<table>")


def test_difficulty_grows_with_cells_characters_and_spans() -> None:
    def table(rows: int, columns: int, text: str, span: str = "") -> float:
        cells = f"<td{span}>{text}</td>" * columns
        return TABLE.difficulty(f"<table>{f'<tr>{cells}</tr>' * rows}</table>")

    steps = [table(2, 2, "1"), table(4, 4, "1"), table(4, 4, "123"), table(20, 10, "a" * 10)]
    assert steps == sorted(set(steps))
    assert steps[0] == 0.0
    assert steps[-1] == pytest.approx(0.9)
    assert table(20, 10, "a" * 10, ' rowspan="2"') == 1.0
    assert 0.0 < TABLE.difficulty("words without any table at all") < 0.4


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared sample data is not here")
def test_real_tables_spread_over_the_scale() -> None:
    lines = (SHARED_DATA / "tables_pubtabnet" / "samples.jsonl").read_text().splitlines()
    answers = [json.loads(line)["messages"][-1]["content"][0]["text"] for line in lines]
    hard = [TABLE.difficulty(answer) for answer in answers]
    assert max(hard) - min(hard) > 0.3
    assert all(0.2 < each < 1.0 for each in hard)
