"""The task `molecule`: an image of a structural formula becomes its SMILES."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vlmpipe.encoding.conversation import Sample
from vlmpipe.tasks.base import LANGUAGES, Language, drawn_sample
from vlmpipe.tasks.lots import nearest, outside
from vlmpipe.tasks.molecule.difficulty import difficulty
from vlmpipe.tasks.molecule.drawing import draw_molecule, random_style
from vlmpipe.tasks.molecule.layout import is_legible, laid_out
from vlmpipe.tasks.molecule.metrics import molecule_metrics
from vlmpipe.tasks.molecule.notation import read_molecule, smiles_of
from vlmpipe.tasks.molecule.svg import svg
from vlmpipe.tasks.molecule.synthetic import random_molecule
from vlmpipe.tasks.text_metrics import text_metrics

if TYPE_CHECKING:
    from rdkit.Chem import Mol

ATTEMPTS = 12
"""Drawn by lot until a molecule is as hard as asked and legible; the nearest one otherwise."""


class MoleculeTask:
    """Structural formulas to SMILES, judged by Tanimoto similarity of fingerprints.

    Data whose answers are InChI (`InChI=1S/...`) works as well, with a prompt of its own: every
    method reads both notations, and `inchi_match` compares them.
    """

    name = "molecule"
    instructions: Mapping[Language, str] = {
        "en": "Write the SMILES of the molecule in the image.",
        "ko": "이미지의 분자를 SMILES로 쓰세요.",
    }
    primary_metric = "tanimoto"
    always_trained: frozenset[str] = frozenset()

    def generate(
        self,
        index: int,
        seed: int,
        difficulty: tuple[float, float],
        languages: Sequence[Language] = LANGUAGES,
    ) -> Sample:
        """A molecule assembled by lot, or a well-known one, drawn, with its canonical SMILES.

        A formula has no language; `languages` says which the question is asked in.
        """
        # Seeded by text: the same on every platform, and neighbours have nothing in common.
        rng = random.Random(f"molecule:{seed}:{index}")
        language = rng.choice(languages)
        molecule = self._molecule(rng, difficulty)
        target = smiles_of(molecule)
        hardness = self.difficulty(target)
        image = draw_molecule(molecule, random_style(rng, hardness))
        return drawn_sample(self, index, seed, image, language, target)

    def difficulty(self, reference: str) -> float:
        """From atoms, rings, configurations, charges and less common elements: 0 for one atom, 1
        for forty with five rings. Text that is no molecule counts by its length.
        """
        return difficulty(reference)

    def canonical(self, answer: str) -> str | None:
        """RDKit's canonical SMILES."""
        molecule = read_molecule(answer)
        return None if molecule is None else smiles_of(molecule)

    def render(self, answer: str) -> str | None:
        """The structural formula, as SVG."""
        molecule = read_molecule(answer)
        return None if molecule is None else svg(molecule)

    def measure(self, prediction: str, reference: str) -> Mapping[str, float]:
        """`tanimoto`, `valid`, `exact_match_smiles`, `inchi_match`, and the metrics of plain text.

        A reference that is no molecule can only be matched as text: all but `valid` and the
        metrics of plain text are 0.
        """
        return {**molecule_metrics(prediction, reference), **text_metrics(prediction, reference)}

    def _molecule(self, rng: random.Random, bounds: tuple[float, float]) -> Mol:
        low, high = bounds

        def miss(molecule: Mol) -> float:
            clash = float(not is_legible(laid_out(molecule)))
            return outside(self.difficulty(smiles_of(molecule)), bounds) + clash

        # Towards the upper end: there are few small molecules, and countless large ones.
        return nearest(
            lambda: random_molecule(rng, rng.triangular(low, high, high)), miss, ATTEMPTS
        )
