"""Where the atoms of a molecule stand on paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdkit.Chem import Mol

CLEAR = 0.4
"""Bond lengths between two atoms below which a formula cannot be read."""

_BOND_LENGTH = 1.5
"""In the units of RDKit's coordinates."""


def laid_out(molecule: Mol) -> Mol:
    """A copy with flat coordinates: RDKit's own, or CoordGen's where the former put one atom on
    another and the latter do better.
    """
    from rdkit import Chem
    from rdkit.Chem import rdCoordGen, rdDepictor

    first = Chem.Mol(molecule)
    rdDepictor.Compute2DCoords(first)
    if clearance(first) >= CLEAR:
        return first
    second = Chem.Mol(molecule)
    rdCoordGen.AddCoords(second)
    return max(first, second, key=clearance)


def is_legible(molecule: Mol) -> bool:
    """Whether every atom has a place of its own on paper."""
    return clearance(laid_out(molecule)) >= CLEAR


def clearance(molecule: Mol) -> float:
    """Smallest distance between two atoms, in bond lengths; the molecule has coordinates."""
    import numpy as np

    points = molecule.GetConformer().GetPositions()[:, :2]
    if len(points) < 2:
        return 1.0
    apart = np.linalg.norm(points[:, None] - points[None, :], axis=-1)
    apart[np.diag_indices(len(points))] = np.inf
    return float(apart.min() / _BOND_LENGTH)
