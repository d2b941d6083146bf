"""Random flowcharts: a main path, with decisions whose other ways run beside it."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

from vlmpipe.tasks.base import Language
from vlmpipe.tasks.chart import texts
from vlmpipe.tasks.chart.model import Direction, Edge, Flowchart, Node

ENDS_FROM = 0.16
"""From this difficulty on the first and last nodes are drawn as ends."""

BOTH_SIDES_FROM = 0.5
MAX_LR_STEPS = 7
"""Longer main paths run down: left to right they would be wider than a page."""

Spot = tuple[int, int]
"""Step along the main path, and lane: 0 on the path, 1 and -1 beside it."""


@dataclass(frozen=True)
class FlowPlan:
    """A flowchart and where its nodes stand.

    Arrows join neighbours of a lane, a step and the node beside it, or a node beside the path and
    the path's next or last step before it, round a corner that is free.
    """

    chart: Flowchart
    spots: tuple[Spot, ...]
    """One for each node."""


@dataclass
class _Sketch:
    """Spots and the arrows between them; corners of arrows are taken, too."""

    steps: int
    arrows: dict[tuple[Spot, Spot], str] = field(default_factory=dict)
    taken: set[Spot] = field(default_factory=set)
    decisions: set[Spot] = field(default_factory=set)
    side: list[Spot] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Nodes and arrows."""
        return self.steps + len(self.side) + len(self.arrows)


def random_flow(rng: random.Random, language: Language, difficulty: float) -> FlowPlan:
    """A flowchart about as hard as asked, 0 to 1."""
    size = 3 * 15**difficulty + rng.uniform(-1, 1)
    sketch = _sketch(rng, size, (1, -1) if difficulty >= BOTH_SIDES_FROM else (1,), language)
    path = [(step, 0) for step in range(sketch.steps)]
    spots = tuple(sorted(path + sketch.side, key=lambda spot: (spot[0], abs(spot[1]), spot[1])))
    names = _texts(rng, language, difficulty, sketch, spots)
    nodes = tuple(
        _node(name, spot, sketch, difficulty) for name, spot in zip(names, spots, strict=True)
    )
    place = {spot: number for number, spot in enumerate(spots)}
    edges = sorted(
        (place[source], place[target], label) for (source, target), label in sketch.arrows.items()
    )
    direction: Direction = rng.choice(("TD", "LR")) if sketch.steps <= MAX_LR_STEPS else "TD"
    return FlowPlan(Flowchart(direction, nodes, tuple(Edge(*edge) for edge in edges)), spots)


def _sketch(rng: random.Random, size: float, lanes: tuple[int, ...], language: Language) -> _Sketch:
    """A main path with branches until it has about `size` nodes and arrows."""
    branching = rng.uniform(0.3, 0.6) if size > 6 else rng.choice((0.0, 0.5))
    sketch = _Sketch(max(2, round((size * (1 - branching) + 1) / 2)))
    for step in range(sketch.steps - 1):
        sketch.arrows[(step, 0), (step + 1, 0)] = ""
    free = [(step, lane) for step in range(sketch.steps - 1) for lane in lanes]
    rng.shuffle(free)
    for step, lane in free:
        if sketch.size + 1 <= size and (step, lane) not in sketch.taken:
            _branch(rng, sketch, step, lane, language)
    return sketch


def _branch(rng: random.Random, sketch: _Sketch, step: int, lane: int, language: Language) -> None:
    """A decision at `step` whose other way leads to one or two nodes beside the path."""
    if (step, 0) in sketch.decisions:
        return
    spots = [(step, lane)]
    if rng.random() < 0.4 and step + 1 < sketch.steps and (step + 1, lane) not in sketch.taken:
        spots.append((step + 1, lane))
    yes, no = rng.choice(texts.terms_of(language).answers)
    down, beside = (yes, no) if rng.random() < 0.7 else (no, yes)
    sketch.arrows[(step, 0), (step + 1, 0)] = down
    sketch.arrows[(step, 0), spots[0]] = beside
    sketch.arrows |= dict.fromkeys(itertools.pairwise(spots), "")
    sketch.decisions.add((step, 0))
    sketch.side += spots
    sketch.taken |= set(spots)
    _return(rng, sketch, spots[0], spots[-1])


def _return(rng: random.Random, sketch: _Sketch, first: Spot, last: Spot) -> None:
    """The way beside ends, joins the path again, or goes back to a step before."""
    corners = [(last[0] + 1, last[1])] if last[0] + 1 < sketch.steps else []
    if first == last and first[0] > 0:
        corners.append((first[0] - 1, first[1]))
    free = [corner for corner in corners if corner not in sketch.taken]
    if free and rng.random() < 0.75:
        corner = rng.choice(free)
        sketch.taken.add(corner)
        sketch.arrows[last, (corner[0], 0)] = ""


def _texts(
    rng: random.Random,
    language: Language,
    difficulty: float,
    sketch: _Sketch,
    spots: tuple[Spot, ...],
) -> list[str]:
    """A text for each spot, no two alike: an arrow is judged by the texts it joins."""
    length = 4 * 4.5**difficulty * rng.uniform(0.9, 1.2)
    terms = texts.terms_of(language)
    ends = difficulty >= ENDS_FROM
    count = len(spots)
    steps = iter(texts.distinct(lambda: texts.step(rng, language, length), count))
    questions = iter(texts.distinct(lambda: texts.question(rng, language, length), count))
    special = {(0, 0): rng.choice(terms.starts), (sketch.steps - 1, 0): rng.choice(terms.ends)}
    return [
        next(questions)
        if spot in sketch.decisions
        else special[spot]
        if ends and spot in special
        else next(steps)
        for spot in spots
    ]


def _node(text: str, spot: Spot, sketch: _Sketch, difficulty: float) -> Node:
    if spot in sketch.decisions:
        return Node("diamond", text)
    end = spot in ((0, 0), (sketch.steps - 1, 0)) and difficulty >= ENDS_FROM
    return Node("stadium" if end else "box", text)
