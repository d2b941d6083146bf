"""What captions are about: charts, figures of labelled shapes, structures of rings."""

from __future__ import annotations

import random
from dataclasses import dataclass
from string import ascii_uppercase

from vlmpipe.tasks.base import Language
from vlmpipe.tasks.chart.drawing import Subject
from vlmpipe.tasks.chart.flow_synthetic import random_flow
from vlmpipe.tasks.chart.synthetic import random_axis_chart, random_pie

SIMPLE_SHAPES = ("circle", "square", "triangle")
SHAPES = (*SIMPLE_SHAPES, "rectangle", "diamond", "pentagon", "hexagon")
MAX_SHAPES = 24
MAX_RINGS = 6
GROUPS = ("OH", "Cl", "Br", "F", "I", "CN", "NH2", "CH3", "NO2", "SH", "CHO", "COOH", "OCH3")


@dataclass(frozen=True)
class FigureScene:
    """Shapes with a letter each, in reading order."""

    shapes: tuple[tuple[str, str], ...]
    """Shape and letter."""


@dataclass(frozen=True)
class Ring:
    """A ring of five or six atoms."""

    atoms: int
    double_bonds: int
    groups: tuple[str, ...]
    """At its upper right and, where there is a second one, at its lower left."""


@dataclass(frozen=True)
class RingScene:
    """Rings in a row, each joined to the next."""

    rings: tuple[Ring, ...]


Scene = Subject | FigureScene | RingScene


def random_scene(rng: random.Random, kind: str, language: Language, difficulty: float) -> Scene:
    """A scene about as hard to describe as asked, 0 to 1; `kind` is one of `KINDS`."""
    if kind == "figure":
        return _figure(rng, difficulty)
    if kind == "structure":
        return _structure(rng, difficulty)
    # Charts of all values printed: a third fewer parts than where the axis says them.
    level = 0.75 * difficulty
    if kind == "flowchart":
        return random_flow(rng, language, level)
    if kind == "pie chart":
        return random_pie(rng, language, level)
    return random_axis_chart(rng, "bar" if kind == "bar chart" else "line", language, level)


def _figure(rng: random.Random, difficulty: float) -> FigureScene:
    count = min(MAX_SHAPES, max(2, round(2 * 12**difficulty + rng.uniform(-0.5, 0.5))))
    names = SIMPLE_SHAPES if difficulty < 0.4 else SHAPES
    letters = sorted(rng.sample(ascii_uppercase, count))
    if rng.random() < difficulty:
        rng.shuffle(letters)
    return FigureScene(tuple((rng.choice(names), letter) for letter in letters))


def _structure(rng: random.Random, difficulty: float) -> RingScene:
    count = max(1, round(MAX_RINGS**difficulty + rng.uniform(-0.5, 0.5)))
    rings = [_ring(rng, 6, difficulty) for _ in range(count - 1)]
    # Only the last: a five-membered ring has no atom opposite to another.
    return RingScene((*rings, _ring(rng, rng.choice((5, 6, 6)), difficulty)))


def _ring(rng: random.Random, atoms: int, difficulty: float) -> Ring:
    groups = rng.sample(GROUPS, rng.randint(0, 2) if difficulty >= 0.15 else 1)
    return Ring(atoms, rng.randint(0, 3 if atoms == 6 else 2), tuple(groups))
