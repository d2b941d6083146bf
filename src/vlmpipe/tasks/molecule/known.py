"""The shipped list of well-known molecules."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from vlmpipe.errors import ArtifactError
from vlmpipe.tasks.molecule.difficulty import Structure, difficulty, structure_of
from vlmpipe.tasks.molecule.notation import read_molecule

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SHIPPED = "molecules.smi"


@dataclass(frozen=True)
class KnownMolecule:
    """A molecule that people know by name."""

    name: str
    molecule: Mol
    """To be read and never changed."""

    difficulty: float
    structure: Structure


@cache
def known_molecules() -> tuple[KnownMolecule, ...]:
    """Every shipped molecule, in the order of the file (`SMILES name` on each line).

    Raises:
        ArtifactError: for a line whose SMILES is not one.
    """
    text = (resources.files("vlmpipe.tasks") / "data" / SHIPPED).read_text(encoding="utf-8")
    return tuple(map(_known, text.splitlines()))


def _known(line: str) -> KnownMolecule:
    smiles, _, name = line.partition(" ")
    molecule = read_molecule(smiles)
    if molecule is None:
        raise ArtifactError(
            f"{smiles!r} in the shipped {SHIPPED} is no molecule",
            "install the package again: make setup",
        )
    return KnownMolecule(name, molecule, difficulty(smiles), structure_of(molecule))
