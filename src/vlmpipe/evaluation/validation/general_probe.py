"""What a model is asked to see what a training cost it elsewhere: nothing that it was trained on.

Three kinds in turn: lines of print to read, small requests in text, and tasks of this package that
the run does not train. All are drawn by a fixed seed: the same for every run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import cycle

from PIL import Image, ImageDraw

from vlmpipe.config import Config
from vlmpipe.config.data import DataSource
from vlmpipe.drawing.fonts import faces_for, font
from vlmpipe.encoding.conversation import Message, Part, Sample
from vlmpipe.errors import ConfigError
from vlmpipe.evaluation.sources import open_source
from vlmpipe.tasks import TASKS

SEED = 7
"""Not a run's own: another seed must not give another probe."""

READING, REQUEST = "reading", "request"
GENERAL = "general"
"""Kind of a file's samples that name no task."""

DIFFICULTY = (0.0, 0.3)
LINE_PIXELS = 34
PRINT_PIXELS = 22
MARGIN_PIXELS = 8


def general_probe(config: Config, trained: Collection[str], *, has_vision: bool) -> list[Sample]:
    """What section `validate.general` asks for: a file of messages, or the kinds above.

    Raises:
        ConfigError: for a file that cannot be read, or that has images for a model without vision.
        BadSamplesError: naming each line of the file that is no sample.
    """
    asked = config.validation.general
    if not asked.samples:
        return []
    if asked.path is None:
        return general_samples(asked.samples, trained, has_vision=has_vision)
    refuse_missing_probe(config)
    samples = list(open_source(general_config(config), str(asked.path), None, asked.samples))
    if not has_vision and any(sample.images for sample in samples):
        raise ConfigError(
            f"validate.general.path {asked.path} has images, and the model reads text only",
            "give samples of text alone: validate.general.path=FILE.jsonl",
            "or take the shipped ones: validate.general.path=null",
        )
    return samples


def refuse_missing_probe(config: Config) -> None:
    """Raise ConfigError where `validate.general.path` is no file: before a training, say."""
    path = config.validation.general.path
    if path is not None and not path.is_file():
        raise ConfigError(
            f"validate.general.path {path} is no file",
            "give a JSONL file of messages: validate.general.path=FILE.jsonl",
            "or take the shipped probe: validate.general.path=null",
        )


def general_config(config: Config) -> Config:
    """The configuration with the general probe's file as its only source of data."""
    path = config.validation.general.path
    sources = (DataSource(path=path),) if path is not None else ()
    data = config.data.model_copy(update={"sources": sources, "task": GENERAL})
    return config.model_copy(update={"data": data})


def general_samples(count: int, trained: Collection[str], *, has_vision: bool) -> list[Sample]:
    """Up to `count` samples of kinds that are not among the `trained` tasks; `Sample.task` is the
    kind. A model without vision is given text alone.
    """
    makers: list[Callable[[int], Sample]] = [request_sample]
    if has_vision:
        makers.insert(0, reading_sample)
    tasks = [name for name in TASKS if name not in trained and (has_vision or name == "qa")]
    supply = [cycle([maker]) for maker in makers]
    if tasks:
        supply.append(cycle([_maker_of(name) for name in tasks]))
    return [next(supply[index % len(supply)])(index) for index in range(count)]


def reading_sample(index: int) -> Sample:
    """Two or three lines of words and numbers in print, and what they say."""
    rng = random.Random(f"{READING} {SEED} {index}")
    lines = [" ".join(_pieces(rng)) for _ in range(rng.randint(2, 3))]
    return _sample(READING, index, (_page(lines, rng), "Read the text in the image."), lines)


def request_sample(index: int) -> Sample:
    """A sum, words to repeat, or words to put in order."""
    rng = random.Random(f"{REQUEST} {SEED} {index}")
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


def _maker_of(name: str) -> Callable[[int], Sample]:
    return lambda index: TASKS[name].generate(index, SEED, DIFFICULTY, ("en",))


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
