"""How hard a molecule is to write down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmpipe.tasks.molecule.notation import read_molecule

if TYPE_CHECKING:
    from rdkit.Chem import Mol

LARGEST = 40
"""Atoms but hydrogen of a molecule that counts as largest."""

CHARACTERS_PER_ATOM = 2
"""About what an atom takes in SMILES; for text that holds no molecule."""

PLAIN = frozenset({"C", "N", "O"})


@dataclass(frozen=True)
class Structure:
    """What makes a molecule hard to write down."""

    atoms: int
    """Without hydrogen."""

    rings: int
    """Smallest set of smallest rings."""

    stereo: int
    """Stereocentres and double bonds whose configuration is given."""

    signs: int
    """Charged atoms, and elements but carbon, nitrogen and oxygen."""


def difficulty(text: str) -> float:
    """Of the molecule in `text`, 0 to 1; text that holds none counts by its length."""
    molecule = read_molecule(text)
    if molecule is None:
        return _measure(Structure(len(text.strip()) // CHARACTERS_PER_ATOM, 0, 0, 0))
    return _measure(structure_of(molecule))


def structure_of(molecule: Mol) -> Structure:
    """The counts that difficulty is made of."""
    from rdkit import Chem

    atoms = list(molecule.GetAtoms())
    return Structure(
        atoms=molecule.GetNumHeavyAtoms(),
        rings=molecule.GetRingInfo().NumRings(),
        stereo=sum(atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED for atom in atoms)
        + sum(bond.GetStereo() != Chem.BondStereo.STEREONONE for bond in molecule.GetBonds()),
        signs=sum(atom.GetFormalCharge() != 0 for atom in atoms)
        + len({atom.GetSymbol() for atom in atoms} - PLAIN),
    )


def _measure(structure: Structure) -> float:
    """0 for one atom; 1 for forty atoms with five rings, four stereo marks and four signs."""
    return round(
        0.6 * min(1.0, max(0, structure.atoms - 1) / (LARGEST - 1))
        + 0.15 * min(1.0, structure.rings / 5)
        + 0.15 * min(1.0, structure.stereo / 4)
        + 0.1 * min(1.0, structure.signs / 4),
        6,
    )
