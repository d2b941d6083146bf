"""Molecules put together from pieces, by single bonds, valid at every step."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmpipe.tasks.molecule import fragments as pieces
from vlmpipe.tasks.molecule.difficulty import Structure, structure_of
from vlmpipe.tasks.molecule.fragments import Fragment, fragments, molecule_of

if TYPE_CHECKING:
    from rdkit.Chem import Atom, Mol

STEPS = 60
"""Pieces tried at most; a molecule without a free place stays smaller than planned."""

AT_LAST_PIECE = 0.6
"""How often a piece is joined to the last one, so that molecules grow long as well as bushy."""


@dataclass(frozen=True)
class Plan:
    """What is to be put together. `atoms` is the aim, the other counts are limits."""

    atoms: int
    rings: int
    alkenes: int
    """Double bonds that need a configuration."""

    signs: int
    """See `Structure.signs`; a piece may exceed it by one."""

    fused: bool


def assemble(rng: random.Random, plan: Plan) -> Mol:
    """A sanitised molecule of at most `plan.atoms` atoms but hydrogen, no stereochemistry."""
    molecule = molecule_of(_first_piece(rng, plan).smiles)
    newest = 0
    alkenes = 0
    for _ in range(STEPS):
        counts = structure_of(molecule)
        if counts.atoms >= plan.atoms:
            break
        piece = _next_piece(rng, plan, counts, alkenes)
        sites = _sites(molecule, molecule_of(piece.smiles).GetAtomWithIdx(0))
        if not sites:
            continue
        recent = [site for site in sites if site >= newest]
        site = rng.choice(recent if recent and rng.random() < AT_LAST_PIECE else sites)
        newest = molecule.GetNumAtoms()
        molecule = _joined(molecule, site, molecule_of(piece.smiles))
        alkenes += piece.smiles in pieces.ALKENES
    return molecule


def _first_piece(rng: random.Random, plan: Plan) -> Fragment:
    wanted = Structure(atoms=0, rings=0, stereo=0, signs=0)
    cyclic = _fitting(_ring_group(rng, plan), plan, wanted)
    if plan.rings and cyclic and rng.random() < 0.8:
        return rng.choice(cyclic)
    return rng.choice(fragments(pieces.STARTS))


def _next_piece(rng: random.Random, plan: Plan, counts: Structure, alkenes: int) -> Fragment:
    fitting = _fitting(_group(rng, plan, counts, alkenes), plan, counts)
    return rng.choice(fitting or _fitting(pieces.CHAINS, plan, counts))


def _group(rng: random.Random, plan: Plan, counts: Structure, alkenes: int) -> tuple[str, ...]:
    if alkenes < plan.alkenes and rng.random() < 0.3:
        return pieces.ALKENES
    if counts.signs < plan.signs and rng.random() < 0.35:
        return rng.choice((pieces.HALOGENS, pieces.HALOGENS, pieces.SULPHUR, pieces.CHARGED))
    if counts.rings < plan.rings and rng.random() < 0.5:
        return _ring_group(rng, plan)
    return rng.choice((pieces.CHAINS, pieces.GROUPS))


def _ring_group(rng: random.Random, plan: Plan) -> tuple[str, ...]:
    return pieces.FUSED_RINGS if plan.fused and rng.random() < 0.4 else pieces.RINGS


def _fitting(group: tuple[str, ...], plan: Plan, counts: Structure) -> list[Fragment]:
    return [
        piece
        for piece in fragments(group)
        if piece.atoms <= plan.atoms - counts.atoms and piece.rings <= plan.rings - counts.rings
    ]


def _sites(molecule: Mol, joining: Atom) -> list[int]:
    """Atoms that may be joined to `joining`."""
    return [atom.GetIdx() for atom in molecule.GetAtoms() if _may_join(atom, joining)]


def _may_join(atom: Atom, joining: Atom) -> bool:
    """Free, not crowded, and nothing that falls apart: no bond between two of N, O, S, halogen, no
    enols, no acetals; no alkene that gains a configuration.
    """
    if not atom.GetTotalNumHs() or atom.GetFormalCharge() or _crowded(atom):
        return False
    if atom.GetSymbol() != "C":
        return (
            atom.GetSymbol() in ("N", "O") and joining.GetSymbol() == "C" and not _nitrile(joining)
        )
    if atom.GetIsAromatic() or joining.GetSymbol() == "C":
        return atom.GetIsAromatic() or _saturated(atom)
    return _saturated(atom) and all(each.GetSymbol() == "C" for each in atom.GetNeighbors())


def _crowded(atom: Atom) -> bool:
    branched = sum(each.GetDegree() > 2 for each in atom.GetNeighbors())
    return atom.GetDegree() > 2 or branched > 1


def _saturated(atom: Atom) -> bool:
    return all(bond.GetBondTypeAsDouble() == 1.0 for bond in atom.GetBonds())


def _nitrile(atom: Atom) -> bool:
    return any(bond.GetBondTypeAsDouble() == 3.0 for bond in atom.GetBonds())


def _joined(molecule: Mol, site: int, piece: Mol) -> Mol:
    from rdkit import Chem

    editable = Chem.RWMol(Chem.CombineMols(molecule, piece))
    start = molecule.GetNumAtoms()
    editable.AddBond(site, start, Chem.BondType.SINGLE)
    for atom in (editable.GetAtomWithIdx(site), editable.GetAtomWithIdx(start)):
        # Hydrogen written out, as in [nH], does not go away by itself.
        atom.SetNumExplicitHs(max(0, atom.GetNumExplicitHs() - 1))
    Chem.SanitizeMol(editable)
    return editable.GetMol()
