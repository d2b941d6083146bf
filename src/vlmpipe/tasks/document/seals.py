"""Red stamps: the round seal of a hospital, the oval one of a person."""

from __future__ import annotations

import random

from vlmpipe.tasks.base import Language
from vlmpipe.tasks.document.claim import Claim
from vlmpipe.tasks.document.page import Box, Seal
from vlmpipe.tasks.document.style import Style
from vlmpipe.tasks.document.wording import Wording

REDS = ((214, 48, 42), (226, 92, 84), (200, 60, 70))


def random_seals(
    rng: random.Random, claim: Claim, words: Wording, style: Style, language: Language, area: Box
) -> list[Seal]:
    """A round or an oval seal, or both, near the line to sign on, which is at the foot of `area`.

    The round one may reach over what stands above; ink shows through.
    """
    oval = _personal if language == "ko" else _received
    pick = rng.random()
    made = []
    if pick < 0.7:
        made.append(_round(rng, claim.hospital or words.seals["round"], style, language, area))
    if pick > 0.4:
        made.append(oval(rng, claim, words, style, area))
    return made


def _round(rng: random.Random, name: str, style: Style, language: Language, area: Box) -> Seal:
    left, _, right, bottom = area
    radius = 3 * style.size
    x = rng.randint(left + radius, max(left + radius, (left + right) // 2 - radius))
    y = bottom - radius - rng.randint(0, 2 * style.size)
    return _seal(rng, style, (x, y), (radius, radius), _round_lines(name, language))


def _personal(rng: random.Random, claim: Claim, words: Wording, style: Style, area: Box) -> Seal:
    """A name from top to bottom, over the hint at the end of the line."""
    name = claim.doctor or claim.patient_name or words.seals["personal"]
    across, down = round(1.4 * style.size), round(2.3 * style.size)
    x = area[2] - across - rng.randint(0, 3 * style.size)
    return _seal(rng, style, (x, area[3] - down), (across, down), tuple(name))


def _received(rng: random.Random, claim: Claim, words: Wording, style: Style, area: Box) -> Seal:
    """One word across, over the line."""
    across, down = round(4.2 * style.size), round(1.6 * style.size)
    x = area[2] - across - rng.randint(0, 6 * style.size)
    return _seal(rng, style, (x, area[3] - 2 * down), (across, down), (words.seals["personal"],))


def _seal(
    rng: random.Random,
    style: Style,
    centre: tuple[int, int],
    radii: tuple[int, int],
    lines: tuple[str, ...],
) -> Seal:
    return Seal(centre, radii, lines, style.title_face, rng.uniform(-15, 15), rng.choice(REDS))


def _round_lines(name: str, language: Language) -> tuple[str, ...]:
    if language == "en":
        return tuple(name.split())
    # Lines of three or fewer, and of one length: four syllables stand two over two.
    lines = -(-len(name) // 3)
    each = -(-len(name) // lines)
    return tuple(name[start : start + each] for start in range(0, len(name), each))
