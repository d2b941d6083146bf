"""Line notations of molecules, read from text that nobody vouches for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdkit.Chem import Mol

MAX_CHARACTERS = 400
"""Longer text is not read: a molecule on one page has fewer, and RDKit's recursion ends the whole
process on chains of some ten thousand atoms.
"""

MAX_ATOMS = MAX_CHARACTERS
"""An InChI of a few characters may ask for more: `/p+9999` adds as many protons, and drawing them
takes minutes.
"""

_ONE_WORD = re.compile(rf"[!-~]{{1,{MAX_CHARACTERS}}}")
_INCHI = "InChI="
_LARGE_NUMBER = re.compile(r"[0-9]{4}")


def read_molecule(text: str) -> Mol | None:
    """The sanitised molecule that a SMILES, or an InChI (`InChI=1S/...`), stands for.

    White space around it is ignored. None for anything else: no atom, more than 400 characters or
    400 atoms, a second word (RDKit would take it for a name), impossible valences.
    """
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    word = text.strip()
    if not _ONE_WORD.fullmatch(word):
        return None
    is_inchi = word.startswith(_INCHI)
    if is_inchi and _LARGE_NUMBER.search(word):
        return None
    with BlockLogs():
        molecule = (Chem.MolFromInchi if is_inchi else Chem.MolFromSmiles)(word)
    if molecule is None or not 0 < molecule.GetNumAtoms() <= MAX_ATOMS:
        return None
    return molecule


def smiles_of(molecule: Mol) -> str:
    """RDKit's canonical SMILES, with stereochemistry."""
    from rdkit import Chem

    return str(Chem.MolToSmiles(molecule))


def inchi_of(molecule: Mol) -> str:
    """The standard InChI; empty where there is none, as for placeholders such as `*`."""
    from rdkit.Chem.rdinchi import MolToInchi
    from rdkit.rdBase import BlockLogs

    with BlockLogs():
        return str(MolToInchi(molecule)[0])
