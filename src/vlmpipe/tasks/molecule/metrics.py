"""How much one molecule is like another."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from vlmpipe.tasks.molecule.notation import inchi_of, read_molecule, smiles_of

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from rdkit.Chem.rdFingerprintGenerator import FingerprintGenerator64

RADIUS = 2
"""Bonds from the centre of an environment; as in published figures of structure recognition."""

BITS = 2048


def molecule_metrics(prediction: str, reference: str) -> dict[str, float]:
    """`tanimoto`, `valid`, `exact_match_smiles` and `inchi_match`; each 0 to 1.

    `valid` looks at the prediction alone; the others are 0 unless both texts are molecules. Either
    may be SMILES or InChI. `inchi_match` is left out for a reference that has no InChI, such as one
    with a placeholder `*`.
    """
    found, wanted = read_molecule(prediction), read_molecule(reference)
    marks = {"tanimoto": 0.0, "valid": float(found is not None), "exact_match_smiles": 0.0}
    if wanted is None:
        return {**marks, "inchi_match": 0.0}
    inchi = inchi_of(wanted)
    if found is not None:
        marks["tanimoto"] = tanimoto(found, wanted)
        marks["exact_match_smiles"] = float(smiles_of(found) == smiles_of(wanted))
    if inchi:
        # In an InChI mobile hydrogens are made one, as SMILES does not.
        marks["inchi_match"] = float(found is not None and inchi_of(found) == inchi)
    return marks


def tanimoto(left: Mol, right: Mol) -> float:
    """Tanimoto similarity of Morgan fingerprints: bits in both, of the bits in either.

    It knows which environments there are, not how many nor their stereochemistry: chains of ten and
    of eleven carbons score 1. Equality is what `exact_match_smiles` tells.
    """
    from rdkit.DataStructs import TanimotoSimilarity

    generator = _generator()
    return float(
        TanimotoSimilarity(generator.GetFingerprint(left), generator.GetFingerprint(right))
    )


@cache
def _generator() -> FingerprintGenerator64:
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    return GetMorganGenerator(radius=RADIUS, fpSize=BITS)
