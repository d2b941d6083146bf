"""Where the atoms of a molecule stand on paper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdkit.Chem import Mol

CLEAR = 0.24
"""Bond lengths between an atom and another's bond below which a formula is misread."""

APART = 0.45
"""Bond lengths between two atoms below which their labels run into each other."""

MAX_CHOICE = 80
"""Atoms of the largest molecule that is laid out in several ways: it takes seconds beyond."""

MAX_RINGS = 12
"""The same of rings: CoordGen takes minutes for some answers of 68 atoms tied into 42 rings."""

BOND_LENGTH = 1.5
"""In the units of RDKit's coordinates."""


def laid_out(molecule: Mol) -> Mol:
    """A copy with flat coordinates, wedges and written double bonds: the first of a few layouts in
    which every atom has a place of its own, or the best of them.
    """
    best, first = -1.0, None
    for layout in _layouts(molecule):
        room = clearance(layout)
        if room >= 1.0:
            return layout
        if room > best:
            best, first = room, layout
    assert first is not None, "there is always one layout"
    return first


def is_legible(layout: Mol) -> bool:
    """Whether every atom of `laid_out` has a place of its own on paper."""
    return clearance(layout) >= 1.0


def clearance(layout: Mol) -> float:
    """How much room atoms have: the smallest distance between an atom and another, or a bond of
    others, as a share of what it takes to read the formula.
    """
    import numpy as np

    points = layout.GetConformer().GetPositions()[:, :2] / BOND_LENGTH
    ends = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in layout.GetBonds()], int)
    if not len(ends):
        return 1.0
    starts, lines = points[ends[:, 0]], points[ends[:, 1]] - points[ends[:, 0]]
    offsets = points[:, None] - starts
    along = (offsets * lines).sum(-1) / np.maximum((lines * lines).sum(-1), 1e-9)
    to_bonds = np.linalg.norm(offsets - np.clip(along, 0, 1)[..., None] * lines, axis=-1)
    to_bonds[ends.T, np.arange(len(ends))] = np.inf
    to_atoms = np.linalg.norm(points[:, None] - points, axis=-1)
    np.fill_diagonal(to_atoms, np.inf)
    return float(min(to_bonds.min() / CLEAR, to_atoms.min() / APART))


def _layouts(molecule: Mol) -> Iterator[Mol]:
    """RDKit's own coordinates, then CoordGen's; with hydrogens at the stereocentres of fused rings,
    as is the custom, then without. For very large and very tangled molecules the first alone.
    """
    from rdkit import Chem
    from rdkit.Chem import rdCoordGen, rdDepictor
    from rdkit.Chem.Draw.rdMolDraw2D import PrepareMolForDrawing

    own, other = Chem.Mol(molecule), Chem.Mol(molecule)
    rdDepictor.Compute2DCoords(own, useRingTemplates=True)
    rdDepictor.StraightenDepiction(own)
    yield PrepareMolForDrawing(own)
    if molecule.GetNumAtoms() > MAX_CHOICE or molecule.GetRingInfo().NumRings() > MAX_RINGS:
        return
    yield PrepareMolForDrawing(own, addChiralHs=False)
    rdCoordGen.AddCoords(other)
    rdDepictor.NormalizeDepiction(other, canonicalize=0)
    yield PrepareMolForDrawing(other)
    yield PrepareMolForDrawing(other, addChiralHs=False)
