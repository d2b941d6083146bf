"""Draw the pictures of docs/tasks.md anew, and put the answers that go with them into it.

    python scripts/make_task_pictures.py

Each task's picture is what the `vlmpipe data synth --n 1` command that stands in the page writes,
in 256 colours to be small; the block of code after the command is its answer.
"""

from __future__ import annotations

import argparse
import random
import re
import shlex
from pathlib import Path

from PIL import Image, ImageDraw

from vlmpipe.data.synthetic.degradations import DEGRADATIONS, scan
from vlmpipe.data.synthetic.recipe import Recipe, recipe_of
from vlmpipe.drawing.fonts import font
from vlmpipe.encoding.conversation import Sample
from vlmpipe.tasks import TASKS

DOCS = Path(__file__).parent.parent / "docs"
EXAMPLE = re.compile(
    r"(`vlmpipe data synth (--task \w+ --n 1 [^`]*)`.*?\n```\w*\n)(.*?)(\n```)", re.S
)

STRENGTH, SEED = 0.6, 2
COLUMNS, GAP, CAPTION = 4, 10, 24
"""Of the picture of all degradations; pixels."""


def main() -> None:
    """Write task-NAME.png, degradations.png, and the answers in the page."""
    page = DOCS / "tasks.md"
    text = EXAMPLE.sub(_with_answer, page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")
    save(all_degradations(), DOCS / "images/degradations.png")


def _with_answer(example: re.Match[str]) -> str:
    sample = sample_of(example[2])
    save(sample.images[0], DOCS / f"images/task-{sample.task}.png")
    return f"{example[1]}{sample.reference}{example[4]}"


def sample_of(words: str) -> Sample:
    """The sample that the command writes."""
    recipe = _recipe(words)
    task = TASKS[recipe.task]
    return task.generate(0, recipe.seed, recipe.difficulty, recipe.languages)


def _recipe(words: str) -> Recipe:
    parser = argparse.ArgumentParser()
    for name in ("task", "seed", "difficulty", "languages", "n"):
        parser.add_argument(f"--{name}", required=True)
    told, _ = parser.parse_known_args(shlex.split(words))
    return recipe_of(told.task, int(told.n), int(told.seed), told.difficulty, told.languages, 0.0)


def save(image: Image.Image, path: Path) -> None:
    """Losslessly where the picture has at most 256 colours."""
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {image.width}×{image.height}, {path.stat().st_size / 1000:.0f} kB")


def all_degradations() -> Image.Image:
    """One small table under each degradation, and under three scans."""
    table = TASKS["table"].generate(0, SEED, (0.25, 0.3), ("en",)).images[0]
    tiles = {
        name.replace("_", " "): treat(table, random.Random(name), STRENGTH)
        for name, treat in DEGRADATIONS.items()
    }
    tiles |= {
        f"scan {share}": scan(table, random.Random(f"scan {share}"), share)
        for share in (0.2, 0.6, 1.0)
    }
    width = max(tile.width for tile in tiles.values()) + GAP
    height = max(tile.height for tile in tiles.values()) + GAP + CAPTION
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width + GAP, rows * height + GAP), (214, 218, 226))
    pen = ImageDraw.Draw(sheet)
    for place, (name, tile) in enumerate(tiles.items()):
        x, y = GAP + place % COLUMNS * width, GAP + place // COLUMNS * height
        pen.text((x, y), name, fill=(25, 28, 33), font=font("sans", 16))
        sheet.paste(tile, (x, y + CAPTION))
    return sheet


if __name__ == "__main__":
    main()
