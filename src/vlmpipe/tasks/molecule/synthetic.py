"""Random molecules, from acetone to what a patent claims."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from vlmpipe.tasks.molecule.assembly import Plan, assemble
from vlmpipe.tasks.molecule.difficulty import LARGEST, Structure
from vlmpipe.tasks.molecule.known import KnownMolecule, known_molecules
from vlmpipe.tasks.molecule.notation import read_molecule, smiles_of

if TYPE_CHECKING:
    from rdkit.Chem import Mol

EASY_UP_TO = 0.15
"""Up to here: three to eight atoms, one ring at most, no configurations, charges or halogens."""

EASY_ATOMS = 8
KNOWN_SHARE = 0.2
"""Of the molecules that are well-known ones, where any is about as hard as asked."""

ENOUGH = 30
"""Known molecules about as hard as asked; where there are fewer they come up less often."""

NEAR = 0.03
"""Known molecules whose difficulty is this near are about as hard as asked."""


def random_molecule(rng: random.Random, level: float) -> Mol:
    """A molecule that is about as hard as asked, 0 to 1.

    Every double bond that can have a configuration is given one, as a drawing always shows one.
    """
    known = [each.molecule for each in known_molecules() if _may_stand_for(each, level)]
    if rng.random() < KNOWN_SHARE * min(1.0, len(known) / ENOUGH):
        return rng.choice(known)
    plan, centres = _plan(rng, level)
    molecule = _read_again(assemble(rng, plan))
    _configure(rng, molecule, centres)
    return _read_again(molecule)


def _may_stand_for(known: KnownMolecule, level: float) -> bool:
    near = abs(known.difficulty - level) <= NEAR
    return near and (level > EASY_UP_TO or is_easy(known.structure))


def is_easy(structure: Structure) -> bool:
    """Whether the structure is of the kind that the easiest pictures show."""
    small = structure.atoms <= EASY_ATOMS and structure.rings <= 1
    return small and not structure.stereo and not structure.signs


def _plan(rng: random.Random, level: float) -> tuple[Plan, int]:
    """A plan, and how many stereocentres are to have a configuration."""
    if level <= EASY_UP_TO:
        atoms = round(1 + level * (LARGEST - 1) / 0.6 * rng.uniform(0.8, 1.1))
        plan = Plan(max(3, min(EASY_ATOMS, atoms)), rng.randint(0, 1), 0, 0, fused=False)
        return plan, 0
    stereo = _some(rng, 4 * level)
    signs = _some(rng, 4 * level)
    alkenes = rng.randint(0, min(1, stereo))
    # What stereo marks and signs leave is shared by atoms and rings, one ring to seven atoms.
    left = level - 0.15 * stereo / 4 - 0.1 * signs / 4
    atoms = max(4, min(LARGEST + 2, round(1 + left / (0.6 / (LARGEST - 1) + 0.03 / 7))))
    rings = max(1, round(atoms / 7 * rng.uniform(0.7, 1.4)))
    plan = Plan(atoms, rings, alkenes, signs, fused=level > 0.3 and rng.random() < 0.6)
    return plan, stereo - alkenes


def _some(rng: random.Random, most: float) -> int:
    """None for about half of the easier molecules, nearly always some for the hardest."""
    return round(most * rng.uniform(most / 4, 1.25)) if rng.random() < 0.35 + most / 6 else 0


def _configure(rng: random.Random, molecule: Mol, centres: int) -> None:
    """A configuration for every double bond that can have one, and for some stereocentres."""
    from rdkit import Chem

    found = list(Chem.FindPotentialStereo(molecule))
    for each in found:
        if each.type == Chem.StereoType.Bond_Double:
            _configure_bond(rng, molecule, each.centeredOn)
    atoms = [each.centeredOn for each in found if each.type == Chem.StereoType.Atom_Tetrahedral]
    for index in rng.sample(atoms, k=min(centres, len(atoms))):
        tag = rng.choice((Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW))
        molecule.GetAtomWithIdx(index).SetChiralTag(tag)


def _configure_bond(rng: random.Random, molecule: Mol, index: int) -> None:
    from rdkit import Chem

    bond = molecule.GetBondWithIdx(index)
    ends = bond.GetBeginAtom(), bond.GetEndAtom()
    left, right = (
        next(each.GetIdx() for each in end.GetNeighbors() if each.GetIdx() != other.GetIdx())
        for end, other in (ends, ends[::-1])
    )
    bond.SetStereoAtoms(left, right)
    bond.SetStereo(rng.choice((Chem.BondStereo.STEREOCIS, Chem.BondStereo.STEREOTRANS)))


def _read_again(molecule: Mol) -> Mol:
    """The same from its SMILES: without what pieces knew of themselves before they were joined,
    and without stereo marks that mean nothing.
    """
    read = read_molecule(smiles_of(molecule))
    assert read is not None, "assembled molecules are sanitised"
    return read
