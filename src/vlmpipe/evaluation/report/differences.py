"""Where an answer departs from its reference, word by word."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

WORTH_MARKING = 0.4
"""Share of words in common under which marks would only colour the whole answer."""

MAX_WORDS = 1500
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True)
class Block:
    """Neighbours of one sequence and what stands in their place in the other."""

    same: bool
    theirs: range
    ours: range


def blocks(theirs: Sequence[Hashable], ours: Sequence[Hashable]) -> list[Block]:
    """The longest common subsequence of two sequences, and what lies between, in their order.

    A few milliseconds for a thousand elements of any kind; Python's own `difflib` is cubic, and
    takes half a minute for two unrelated texts of as many words.

    Raises:
        ImportError: where `rapidfuzz` is not installed.
    """
    from rapidfuzz.distance import Indel

    found: list[Block] = []
    for step in Indel.opcodes(theirs, ours):
        block = Block(
            step.tag == "equal",
            range(step.src_start, step.src_end),
            range(step.dest_start, step.dest_end),
        )
        if found and not found[-1].same and not block.same:
            block = _joined(found.pop(), block)
        found.append(block)
    return found


def marked_text(text: str, reference: str) -> str | None:
    """Inert HTML with `<mark>` around what the reference does not say, `…` where it says more.

    None where the texts are equal, too long to compare, or have too little in common.
    """
    ours, theirs = _WORD.findall(text), _WORD.findall(reference)
    if ours == theirs or max(len(ours), len(theirs)) > MAX_WORDS:
        return None
    try:
        compared = blocks(theirs, ours)
    except ImportError:
        # A report may be written where the libraries that read answers are not installed.
        return None
    same = _words(word for block in compared if block.same for word in ours[_slice(block.ours)])
    if 2 * same < WORTH_MARKING * (_words(ours) + _words(theirs)) or not same:
        return None
    return "".join(_marked("".join(ours[_slice(block.ours)]), block) for block in compared)


def _joined(first: Block, second: Block) -> Block:
    return Block(
        False,
        range(first.theirs.start, second.theirs.stop),
        range(first.ours.start, second.ours.stop),
    )


def _words(tokens: Iterable[str]) -> int:
    """White space, which any two texts share, is none."""
    return sum(not token.isspace() for token in tokens)


def _slice(place: range) -> slice:
    return slice(place.start, place.stop)


def _marked(text: str, block: Block) -> str:
    return escape(text) if block.same else f"<mark>{escape(text) or '…'}</mark>"
