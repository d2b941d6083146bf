"""A structural formula drawn by RDKit in the manners of papers and patents, with shipped fonts."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vlmpipe.drawing.fonts import faces, faces_for
from vlmpipe.tasks.molecule.layout import BOND_LENGTH, laid_out
from vlmpipe.tasks.molecule.synthetic import EASY_UP_TO

if TYPE_CHECKING:
    from PIL import Image
    from rdkit.Chem import Mol
    from rdkit.Chem.Draw.rdMolDraw2D import MolDraw2DCairo

MIN_SIDE = 112
"""Four image tokens of 28 pixels: smaller pictures are enlarged by some runtimes."""

EASY_SIZE, HARD_SIZE = (336, 252), (900, 680)
"""Largest width and height, at difficulty 0.15 and 1."""

LABELS = "ABCDEFGHIKLMNOPRSTUabcdefghiklmnoprstu0123456789+-"
"""What atoms and abbreviated groups are labelled with."""

_WHITE = 255
_BLACK_BELOW = 150
"""Grey levels below which a scanner sees black."""

_TRIES = 4
"""Drawings made at most until one fits; each is shrunk by what the last was too large."""


@dataclass(frozen=True)
class Style:
    """How one formula is drawn; lengths in pixels, angles in degrees."""

    face: str
    font_size: float
    bond_length: float
    line_width: float
    double_bond_gap: float
    """Of the bond's length."""

    margin: int
    rotation: float
    coloured: bool
    scanned: bool
    """Black and white without shades."""

    paper: int
    """Grey level, 255 white."""

    methyls: bool
    """Whether ends of chains are labelled CH3."""

    abbreviated: bool
    """Whether groups such as CF3 and NO2 are one label."""

    largest: tuple[int, int]
    """Width and height."""


def random_style(rng: random.Random, difficulty: float) -> Style:
    """Large and plain for easy molecules; closer, and with abbreviated groups, for hard ones."""
    bond = rng.uniform(25, 35) if difficulty <= EASY_UP_TO else rng.uniform(26, 60)
    kind = rng.random()
    return Style(
        face=rng.choice(("serif", "serif", "sans", "sans", *_plain_faces())),
        font_size=max(15.0, bond * rng.uniform(0.5, 0.65)),
        bond_length=bond,
        line_width=max(1.0, bond * rng.uniform(0.03, 0.085)),
        double_bond_gap=rng.uniform(0.12, 0.19),
        margin=rng.randint(8, 24),
        rotation=_rotation(rng),
        coloured=kind < 0.15,
        scanned=kind > 0.6,
        paper=rng.choice((_WHITE, _WHITE, rng.randint(238, 254))),
        methyls=rng.random() < 0.15,
        abbreviated=difficulty > 0.3 and rng.random() < 0.3,
        largest=_largest(difficulty),
    )


def draw_molecule(molecule: Mol, style: Style) -> Image.Image:
    """The formula as an RGB image: no side under 112 pixels, none over `style.largest`, a blank
    margin of at least `style.margin` on every side.
    """
    placed = laid_out(_condensed(molecule) if style.abbreviated else molecule)
    ink = _ink(placed, style)
    for _ in range(_TRIES):
        excess = _excess(ink, style)
        if excess <= 1.0:
            break
        style = _shrunk(style, excess)
        ink = _ink(placed, style)
    return _on_paper(ink, style)


def _plain_faces() -> list[str]:
    return [name for name in faces_for(LABELS, "print") if not faces()[name].korean]


def _rotation(rng: random.Random) -> float:
    """Mostly upright, as formulas are printed."""
    return rng.choice((0.0, 0.0, 0.0, 180.0, 90.0, 30.0, -30.0, 60.0, rng.uniform(-180, 180)))


def _largest(difficulty: float) -> tuple[int, int]:
    part = max(0.0, difficulty - EASY_UP_TO) / (1 - EASY_UP_TO)
    width, height = (
        round(easy + part * (hard - easy)) for easy, hard in zip(EASY_SIZE, HARD_SIZE, strict=True)
    )
    return width, height


def _condensed(molecule: Mol) -> Mol:
    """With labels for well-known groups, unless there are configurations, which they may hide."""
    from rdkit.Chem import rdAbbreviations

    from vlmpipe.tasks.molecule.difficulty import structure_of

    if structure_of(molecule).stereo:
        return molecule
    known = rdAbbreviations.GetDefaultAbbreviations()
    return rdAbbreviations.CondenseMolAbbreviations(molecule, known, maxCoverage=0.4)


def _ink(placed: Mol, style: Style) -> Image.Image:
    """The drawing, black or coloured on white, cut to what is not white."""
    from PIL import Image, ImageChops
    from rdkit.Chem.Draw.rdMolDraw2D import MolDraw2DCairo

    drawer = MolDraw2DCairo(-1, -1)
    _set_options(drawer, style)
    drawer.DrawMolecule(placed)
    drawer.FinishDrawing()
    image = Image.open(io.BytesIO(drawer.GetDrawingText())).convert("RGB")
    if style.scanned:
        image = image.convert("L").point(_scanned_levels()).convert("RGB")
    white = Image.new("RGB", image.size, (_WHITE,) * 3)
    return image.crop(ImageChops.difference(image, white).getbbox())


def _set_options(drawer: MolDraw2DCairo, style: Style) -> None:
    options = drawer.drawOptions()
    wanted = {
        "fontFile": str(faces()[style.face].path),
        "fixedFontSize": round(style.font_size),
        "scalingFactor": style.bond_length / BOND_LENGTH,
        "bondLineWidth": style.line_width,
        "scaleBondWidth": False,
        "multipleBondOffset": style.double_bond_gap,
        "rotate": style.rotation,
        "explicitMethyl": style.methyls,
        "padding": 0.05,
        "prepareMolsBeforeDrawing": False,
        "includeMetadata": False,
    }
    for name, value in wanted.items():
        setattr(options, name, value)
    if not style.coloured:
        options.useBWAtomPalette()


def _scanned_levels() -> list[int]:
    return [0 if level < _BLACK_BELOW else _WHITE for level in range(256)]


def _excess(ink: Image.Image, style: Style) -> float:
    """How many times too large the drawing is."""
    width, height = (side - 2 * style.margin for side in style.largest)
    return max(ink.width / width, ink.height / height)


def _shrunk(style: Style, times: float) -> Style:
    smaller = 1.02 * times
    return replace(
        style, bond_length=style.bond_length / smaller, font_size=style.font_size / smaller
    )


def _on_paper(ink: Image.Image, style: Style) -> Image.Image:
    from PIL import Image, ImageChops

    size = tuple(max(MIN_SIDE, side + 2 * style.margin) for side in ink.size)
    page = Image.new("RGB", (size[0], size[1]), (_WHITE,) * 3)
    page.paste(ink, ((size[0] - ink.width) // 2, (size[1] - ink.height) // 2))
    paper = Image.new("RGB", page.size, (style.paper,) * 3)
    return ImageChops.multiply(page, paper)
