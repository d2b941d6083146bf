"""Scenes in words, English and Korean, with every label in double quotes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from vlmpipe.tasks.base import Language
from vlmpipe.tasks.caption.facts import KINDS, NOUNS
from vlmpipe.tasks.caption.scenes import SHAPES, FigureScene, RingScene, Scene
from vlmpipe.tasks.chart.flow_synthetic import FlowPlan
from vlmpipe.tasks.chart.model import AxisChart, Flowchart, PieChart, number_text

Pairs = Sequence[tuple[str, float]]


class Words:
    """The words of one language; English counts before the noun, Korean after it."""

    def __init__(self, language: Language) -> None:
        self.korean = language == "ko"

    def kind(self, name: str) -> str:
        """`A bar chart`, `막대그래프`."""
        return KINDS[name][1] if self.korean else f"A {KINDS[name][0]}"

    def noun(self, name: str) -> str:
        """One of them."""
        return NOUNS[name][-1] if self.korean else NOUNS[name][-2]

    def count(self, number: int, name: str) -> str:
        """`3 bars`, `막대 3개`."""
        if self.korean:
            return f"{NOUNS[name][-1]} {number}개"
        return f"{number} {NOUNS[name][0] if number != 1 else NOUNS[name][1]}"

    def counts(self, numbers: Iterable[tuple[int, str]]) -> str:
        """All that are not zero, as a list in a sentence."""
        parts = [self.count(number, name) for number, name in numbers if number]
        if self.korean or len(parts) < 2:
            return ", ".join(parts)
        return f"{', '.join(parts[:-1])} and {parts[-1]}"

    def opening(self, kind: str, contents: str, title: str = "") -> str:
        """The first sentence, without its full stop."""
        if self.korean:
            named = f"제목이 {quoted(title)}인 " if title else ""
            return f"{named}{self.kind(kind)}. {contents}"
        named = f" titled {quoted(title)}" if title else ""
        return f"{self.kind(kind)}{named} with {contents}"

    def extreme(self, name: str, pair: tuple[str, float]) -> str:
        """` The largest is "south" (40).`"""
        label, value = quoted(pair[0]), number_text(pair[1])
        if self.korean:
            return f" {NOUNS[name][1]}은 {label} ({value})."
        return f" The {NOUNS[name][0]} is {label} ({value})."

    def leads(self, source: str, target: str, label: str) -> str:
        """` "A" leads to "B" ("yes").`"""
        verb = "다음은" if self.korean else "leads to"
        end = f" ({quoted(label)})" if label else ""
        return f" {quoted(source)} {verb} {quoted(target)}{end}."


def caption(scene: Scene, language: Language, detail: int) -> str:
    """The scene described, from 0 (counts and labels) to 3 (every value and arrow)."""
    words = Words(language)
    if isinstance(scene, FigureScene):
        return _figure(scene, words)
    if isinstance(scene, RingScene):
        return _structure(scene, words, detail)
    if isinstance(scene, FlowPlan):
        return _flow(scene.chart, words, detail)
    if isinstance(scene, PieChart):
        return _values("pie chart", "slice", scene.title, scene.slices, words, detail)
    return _axes(scene, words, detail)


def quoted(text: str) -> str:
    """In double quotes; none within."""
    return '"' + text.replace('"', "'") + '"'


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(map(quoted, labels))


def _axes(chart: AxisChart, words: Words, detail: int) -> str:
    kind, part = ("bar chart", "bar") if chart.kind == "bar" else ("line chart", "point")
    pairs = tuple(zip(chart.categories, chart.values, strict=True))
    return _values(kind, part, chart.title, pairs, words, detail)


def _values(kind: str, part: str, title: str, pairs: Pairs, words: Words, detail: int) -> str:
    listed = ", ".join(
        quoted(label) + (f" ({number_text(value)})" if detail == 3 else "")
        for label, value in pairs
    )
    text = words.opening(kind, f"{words.count(len(pairs), part)}: {listed}.", title)
    for name, choose in (("largest", max), ("smallest", min))[:detail]:
        value = choose(value for _, value in pairs)
        found = [pair for pair in pairs if pair[1] == value]
        # Of equal ones none is the largest.
        text += words.extreme(name, found[0]) if len(found) == 1 else ""
    return text


def _flow(chart: Flowchart, words: Words, detail: int) -> str:
    shapes = Counter(node.shape for node in chart.nodes)
    counts = words.counts(
        [
            (shapes["box"] + shapes["round"], "box"),
            (shapes["stadium"], "end"),
            (shapes["diamond"], "decision"),
            (len(chart.edges), "arrow"),
        ]
    )
    first = quoted(chart.nodes[0].text)
    start = f". {NOUNS['start'][1]}" if words.korean else f", {NOUNS['start'][0]}"
    text = words.opening("flowchart", f"{counts}{start} {first}.")
    names = [node.text for node in chart.nodes]
    if detail in (1, 2):
        text += f" {_listed(names[1:])}."
    if detail >= 3:
        text += "".join(
            words.leads(names[edge.source], names[edge.target], edge.label) for edge in chart.edges
        )
    return text


def _figure(scene: FigureScene, words: Words) -> str:
    found = Counter(shape for shape, _ in scene.shapes)
    counts = words.counts((found[shape], shape) for shape in SHAPES)
    named = ", ".join(f"{words.noun(shape)} {quoted(letter)}" for shape, letter in scene.shapes)
    return words.opening("figure", f"{counts}: {named}.")


def _structure(scene: RingScene, words: Words, detail: int) -> str:
    groups = [group for ring in scene.rings for group in ring.groups]
    counts = words.counts(
        [
            (len(scene.rings), "ring"),
            (sum(ring.atoms for ring in scene.rings) if detail else 0, "atom"),
            (sum(ring.double_bonds for ring in scene.rings), "double bond"),
            (len(groups), "group"),
        ]
    )
    return words.opening("structure", counts + (f": {_listed(groups)}." if groups else "."))
