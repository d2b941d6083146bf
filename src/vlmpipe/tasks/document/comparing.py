"""Field by field, how far one JSON object says what another does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from vlmpipe.tasks.document.nodes import Node

MAX_PAIRS = 1_000_000
"""Nodes of one list times nodes of the other (two bills of 250 items). Beyond it entries are
compared place by place, which gets no more of them right than the best alignment does."""


class Tally(NamedTuple):
    """Counts of fields, where a field is a value that is no object and no list, at any depth."""

    right: int = 0
    critical_right: int = 0
    asked: int = 0
    critical: int = 0
    missing: int = 0
    """Fields of the reference that are not in the answer, whatever their value."""

    given: int = 0
    invented: int = 0
    """Fields of the answer that nobody asked for."""

    critical_invented: int = 0


def compare(given: Node, asked: Node) -> Tally:
    """Objects by name, lists by the alignment in order that gets most fields right.

    An entry left out of a list costs its own fields, and not those of all that follow. Where a
    value is of another kind (an object for a text), or an entry of a list has no partner, its
    fields are wrong, and only what there is more of on one side is missing or made up.
    """
    if given.members is not None and asked.members is not None:
        return _objects(given.members, asked.members)
    if given.entries is not None and asked.entries is not None:
        return _lists(given, asked)
    if asked.text is not None and given.text == asked.text:
        return Tally(1, asked.critical, 1, asked.critical, given=1)
    return _wrong([given], [asked])


def _wrong(given: Sequence[Node], asked: Sequence[Node]) -> Tally:
    """Fields of which none is right."""
    found, critical_found = _fields(given)
    wanted, critical = _fields(asked)
    return Tally(
        asked=wanted,
        critical=critical,
        missing=max(0, wanted - found),
        given=found,
        invented=max(0, found - wanted),
        critical_invented=min(max(0, found - wanted), max(0, critical_found - critical)),
    )


def _fields(nodes: Sequence[Node]) -> tuple[int, int]:
    return sum(node.fields for node in nodes), sum(node.critical for node in nodes)


def _sum(parts: Iterable[Tally]) -> Tally:
    return Tally(*map(sum, zip(Tally(), *parts, strict=True)))


def _objects(given: Mapping[str, Node], asked: Mapping[str, Node]) -> Tally:
    both = [name for name in asked if name in given]
    left_out = [node for name, node in asked.items() if name not in given]
    made_up = [node for name, node in given.items() if name not in asked]
    shared = [compare(given[name], asked[name]) for name in both]
    return _sum([*shared, _wrong([], left_out), _wrong(made_up, [])])


def _lists(given: Node, asked: Node) -> Tally:
    left, right = given.entries or (), asked.entries or ()
    if given.size * asked.size > MAX_PAIRS:
        pairs = [(place, place) for place in range(min(len(left), len(right)))]
    else:
        pairs = _aligned(left, right)
    alone = _without(left, {one for one, _ in pairs}), _without(right, {two for _, two in pairs})
    return _sum([*(compare(left[one], right[two]) for one, two in pairs), _wrong(*alone)])


def _without(nodes: Sequence[Node], places: Set[int]) -> list[Node]:
    return [node for place, node in enumerate(nodes) if place not in places]


def _aligned(given: Sequence[Node], asked: Sequence[Node]) -> list[tuple[int, int]]:
    """Places of the entries that are partners (Needleman-Wunsch): each has a field right."""
    gains = [[_worth(compare(one, other)) for other in asked] for one in given]
    best = [[0] * (len(asked) + 1)]
    for row in gains:
        above, line = best[-1], [0]
        for place, gain in enumerate(row):
            line.append(max(above[place] + gain, above[place + 1], line[place]))
        best.append(line)
    return _path(best)


def _worth(tally: Tally) -> int:
    """What an alignment maximises: right fields, then critical ones among them."""
    return tally.right * (MAX_PAIRS + 1) + tally.critical_right


def _path(best: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    pairs = []
    one, two = len(best) - 1, len(best[0]) - 1
    while one and two:
        here = best[one][two]
        if here == best[one - 1][two]:
            one -= 1
        elif here == best[one][two - 1]:
            two -= 1
        else:
            one, two = one - 1, two - 1
            pairs.append((one, two))
    return pairs
