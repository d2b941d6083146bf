"""A structural formula for the report: shapes only, whatever the answer was."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from vlmpipe.tasks.molecule.layout import laid_out

if TYPE_CHECKING:
    from rdkit.Chem import Mol

WIDTH, HEIGHT = 360, 260
"""Pixels, and units of the drawing."""

SHAPES = {
    "rect": ("x", "y", "width", "height"),
    "path": ("d",),
    "ellipse": ("cx", "cy", "rx", "ry"),
}
"""What is kept of RDKit's drawing (labels are paths), with the attributes that say where it is."""

LOOKS = frozenset({"fill", "stroke", "stroke-width", "stroke-dasharray"})


def svg(molecule: Mol) -> str:
    """An `svg` element of shapes without text, style, class or address, for use within HTML."""
    shapes = "".join(map(_shape, ElementTree.fromstring(_drawn(molecule))))
    box = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg {box} role="img">{shapes}</svg>'


def _drawn(molecule: Mol) -> bytes:
    from rdkit.Chem.Draw.rdMolDraw2D import MolDraw2DSVG
    from rdkit.rdBase import BlockLogs

    drawer = MolDraw2DSVG(WIDTH, HEIGHT)
    options = drawer.drawOptions()
    for name in ("prepareMolsBeforeDrawing", "includeMetadata"):
        setattr(options, name, False)
    with BlockLogs():
        drawer.DrawMolecule(laid_out(molecule))
    drawer.FinishDrawing()
    return drawer.GetDrawingText().encode()


def _shape(element: ElementTree.Element) -> str:
    name = element.tag.rpartition("}")[2]
    if name not in SHAPES:
        return ""
    styles = dict(each.split(":", 1) for each in element.get("style", "").split(";") if each)
    attributes = {key: element.get(key, "") for key in SHAPES[name]}
    attributes |= {key: value for key, value in styles.items() if key in LOOKS}
    written = "".join(f' {key}="{value.strip()}"' for key, value in attributes.items())
    return f"<{name}{written}/>"
