"""General samples: what a model could do before it was trained for a task.

Three kinds in turn: lines of print to read, small requests in text, and tasks of this package that
the run does not train. validate asks them to see what a training cost; setup mixes others of them,
of other seeds, into the training against that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import count, cycle, islice

from PIL import Image, ImageDraw

from vlmpipe.config import Config
from vlmpipe.config.data import DataSource
from vlmpipe.data.problems import SampleError
from vlmpipe.data.sources import candidates
from vlmpipe.data.splitting import content_keys
from vlmpipe.drawing.fonts import faces_for, font
from vlmpipe.encoding.conversation import Message, Part, Sample
from vlmpipe.tasks import TASKS

PROBE_SEED = 7
"""Not a run's own: another seed must not give another probe."""

READING, REQUEST = "reading", "request"
GENERAL = "general"
"""Kind of a file's samples that name no task."""

DIFFICULTY = (0.0, 0.3)
LINE_PIXELS = 34
PRINT_PIXELS = 22
MARGIN_PIXELS = 8


def general_samples(
    number: int, trained: Collection[str], *, has_vision: bool, seed: int = PROBE_SEED
) -> list[Sample]:
    """So many samples of kinds that are not among the `trained` tasks; `Sample.task` is the kind. A
    model without vision is given text alone.
    """
    return list(islice(endless_samples(trained, has_vision=has_vision, seed=seed), number))


def endless_samples(
    trained: Collection[str], *, has_vision: bool, seed: int = PROBE_SEED
) -> Iterator[Sample]:
    """The same without an end; where a kind has few samples they come again."""
    makers: list[Callable[[int, int], Sample]] = [request_sample]
    if has_vision:
        makers.insert(0, reading_sample)
    tasks = [name for name in TASKS if name not in trained and (has_vision or name == "qa")]
    supply = [cycle([maker]) for maker in makers]
    if tasks:
        supply.append(cycle([_maker_of(name) for name in tasks]))
    return (next(supply[index % len(supply)])(index, seed) for index in count())


def reading_sample(index: int, seed: int = PROBE_SEED) -> Sample:
    """Two or three lines of words and numbers in print, and what they say."""
    rng = random.Random(f"{READING} {seed} {index}")
    lines = [" ".join(_pieces(rng)) for _ in range(rng.randint(2, 3))]
    return _sample(READING, index, (_page(lines, rng), "Read the text in the image."), lines)


def request_sample(index: int, seed: int = PROBE_SEED) -> Sample:
    """A sum, words to repeat, or words to put in order."""
    rng = random.Random(f"{REQUEST} {seed} {index}")
    words = rng.sample(_words(), 4)
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    asked, answer = rng.choice(
        (
            (f"What is {a} + {b}? Answer with the number only.", str(a + b)),
            (f"Repeat these words: {' '.join(words)}", " ".join(words)),
            (
                f"Put these words in alphabetical order: {', '.join(words)}",
                ", ".join(sorted(words)),
            ),
        )
    )
    return _sample(REQUEST, index, (asked,), [answer])


def files_alone(config: Config, sources: tuple[DataSource, ...]) -> Config:
    """The configuration with these files as its only data, general where they name no task."""
    alone = {"sources": sources, "task": GENERAL, "general_sources": (), "general_ratio": 0.0}
    data = config.data.model_copy(update=alone)
    return config.model_copy(update={"data": data})


def general_config(config: Config) -> Config:
    """The configuration with the general probe's file, if it has one, as its only data."""
    path = config.validation.general.path
    return files_alone(config, (DataSource(path=path),) if path is not None else ())


def probe_keys(config: Config, trained: Collection[str], *, has_vision: bool) -> frozenset[str]:
    """Content of the samples that validate's general probe will ask of a model that was trained for
    these tasks, as `content_keys` gives it. Lines of its file that are no samples have none.
    """
    asked = config.validation.general
    if asked.path is None:
        samples = general_samples(asked.samples, trained, has_vision=has_vision)
    else:
        samples = list(_readable(general_config(config), asked.samples))
    return frozenset(key for sample in samples for key in content_keys(sample))


def _readable(config: Config, limit: int) -> Iterator[Sample]:
    for candidate in islice(candidates(config), limit):
        try:
            yield candidate.load()
        except SampleError:
            continue


def _maker_of(name: str) -> Callable[[int, int], Sample]:
    return lambda index, seed: TASKS[name].generate(index, seed, DIFFICULTY, ("en",))


def _sample(kind: str, index: int, asked: tuple[Part, ...], lines: Sequence[str]) -> Sample:
    return Sample(
        id=f"{kind}-{index:03d}",
        messages=(Message("user", asked), Message("assistant", ("\n".join(lines),))),
        task=kind,
        origin=f"general probe {index}",
    )


def _pieces(rng: random.Random) -> Iterator[str]:
    for _ in range(rng.randint(2, 3)):
        yield str(rng.randint(0, 9999)) if rng.random() < 0.4 else rng.choice(_words())


def _page(lines: Sequence[str], rng: random.Random) -> Image.Image:
    face = font(rng.choice(faces_for("".join(lines))), PRINT_PIXELS)
    width = max(round(face.getlength(line)) for line in lines) + 2 * MARGIN_PIXELS
    height = len(lines) * LINE_PIXELS + 2 * MARGIN_PIXELS
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        middle = MARGIN_PIXELS + (number + 0.5) * LINE_PIXELS
        pen.text((MARGIN_PIXELS, middle), line, fill="black", font=face, anchor="lm")
    return page


@cache
def _words() -> tuple[str, ...]:
    text = (files("vlmpipe.tasks") / "data" / "words.txt").read_text(encoding="utf-8")
    return tuple(text.split())
