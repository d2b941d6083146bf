"""Molecules: reading SMILES and InChI, the synthetic generator, the drawing, the metrics."""

from vlmpipe.tasks.molecule.task import MoleculeTask

__all__ = ["MoleculeTask"]
