"""Pieces that molecules are assembled from, as SMILES whose first atom joins the molecule.

Each is a whole molecule: the bond that joins it takes the place of a hydrogen of the first atom.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdkit.Chem import Mol


def _pieces(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# A piece that stands twice is taken twice as often.
CHAINS = _pieces("C C C CC CC CCC CCCC C(C)C C(C)(C)C C=C CC=C C#C CC#C")
STARTS = ("C", "CC", "CC", "CCC")
"""What molecules without a ring at the beginning grow from."""

GROUPS = _pieces(
    "O O O OC N N NC N(C)C C=O C#N CO CN C(=O)O C(=O)O C(=O)N C(C)=O C(=O)OC OC(C)=O NC(C)=O"
    " C(=O)C OCC NCC COC CNC C(=O)NC C(=O)OCC C(=O)NCC CC(=O)N OCCO OCCN NC(=O)N"
    " OC(=O)N NC(=O)OC(C)(C)C"
)
RINGS = _pieces(
    "c1ccccc1 c1ccccc1 c1ccccc1 c1ccccc1 c1ccncc1 c1cccnc1 c1ccccn1 c1cncnc1 c1ccncn1 c1ccnnc1"
    " c1cnccn1 c1ccco1 c1ccoc1 c1cc[nH]c1 c1c[nH]cn1 [nH]1cccc1 [nH]1ccnc1 [nH]1cccn1"
    " c1ccno1 c1cocn1 c1nnco1 C1CCCCC1 C1CCCCC1 C1CCCC1 C1CCC1 C1CC1 N1CCCC1 N1CCCCC1 N1CCNCC1"
    " N1CCOCC1 C1CCNCC1 C1CCNC1 C1CCOCC1 C1CCOC1 C1=CCCCC1 C1CCC(=O)CC1 N1CCCC1=O C1CO1"
)
FUSED_RINGS = _pieces(
    "c1ccc2ccccc2c1 c1cccc2ccccc12 c1c[nH]c2ccccc12 [nH]1ccc2ccccc12 c1ccc2[nH]ccc2c1"
    " c1cc2ccccc2o1 c1nc2ccccc2[nH]1 [nH]1cnc2ccccc12 c1ccc2ncccc2c1 c1ccnc2ccccc12"
    " c1cccc2cnccc12 c1ncnc2ccccc12 C1CCc2ccccc2C1 C1Cc2ccccc2C1 N1CCc2ccccc2C1 c1ccc2OCOc2c1"
    " c1ccc2OCCOc2c1 c1cc(=O)c2ccccc2o1 [nH]1cnc2cncnc12 c1cnc2[nH]ccc2c1 C1CC2CCC1C2"
    " C12CC3CC(C1)CC(C3)C2 C1CN2CCC1CC2 C1CCC2CCCCC2C1 c1ccc2c(c1)[nH]c1ccccc12"
)
HALOGENS = _pieces("F F Cl Cl Br I C(F)(F)F OC(F)(F)F")
SULPHUR = _pieces(
    "c1cccs1 c1ccsc1 c1cncs1 c1csc2ccccc12 c1nc2ccccc2s1 N1CCSCC1 SC S S(C)(=O)=O S(=O)(=O)N"
    " CSC CS(C)=O S(=O)(=O)O NS(C)(=O)=O"
)
CHARGED = _pieces(
    "[NH+](=O)[O-] [NH+](=O)[O-] [NH+](=O)[O-] [NH+](C)(C)C CC(=O)[O-] C[NH3+] [nH+]1ccccc1"
    " S(=O)(=O)[O-]"
)
ALKENES = _pieces("C=CC C=CC(=O)O C=CC(=O)OC C=Cc1ccccc1 CC=CC C(C)=CC C=NO C=NOC C=CC#N")
"""Whose double bond has two configurations."""


@dataclass(frozen=True)
class Fragment:
    """A piece; its first atom joins."""

    smiles: str
    atoms: int
    rings: int


@cache
def fragments(group: tuple[str, ...]) -> tuple[Fragment, ...]:
    """What is known of each piece of a group, in the same order."""
    sized = ((smiles, molecule_of(smiles)) for smiles in group)
    return tuple(
        Fragment(smiles, piece.GetNumAtoms(), piece.GetRingInfo().NumRings())
        for smiles, piece in sized
    )


@cache
def molecule_of(smiles: str) -> Mol:
    """The piece, to be copied and never changed."""
    from rdkit import Chem

    return Chem.MolFromSmiles(smiles)
