"""How right an answer is that should be a table."""

from __future__ import annotations

from vlmpipe.tasks.html_tables import Node, TableError, parse_table
from vlmpipe.tasks.table.cells import adjacency_f1, cell_accuracy, cell_f1, placed_cells
from vlmpipe.tasks.teds import tree_similarity


def table_metrics(prediction: str, reference: str) -> dict[str, float]:
    """Metrics of trees and of cells, and `well_formed`: 1.0 where the prediction holds a table that
    can be compared. Where it holds none, or the reference holds none, all others are 0.0.
    """
    found, wanted = _table(prediction), _table(reference)
    trees = dict.fromkeys(("teds", "teds_structure", "structure_match"), 0.0)
    if found and wanted:
        trees = _tree_metrics(found, wanted)
    cells = _cell_metrics(found, wanted or Node("table"))
    return {**trees, **cells, "well_formed": float(found is not None)}


def _tree_metrics(found: Node, wanted: Node) -> dict[str, float]:
    structures = found.without_content(), wanted.without_content()
    return {
        "teds": tree_similarity(found, wanted),
        "teds_structure": tree_similarity(*structures),
        "structure_match": float(structures[0] == structures[1]),
    }


def _cell_metrics(found: Node | None, wanted: Node) -> dict[str, float]:
    cells, others = placed_cells(found or Node("table")), placed_cells(wanted)
    measured = {
        "cell_accuracy": cell_accuracy(cells, others),
        "cell_f1": cell_f1(cells, others),
        "adjacency_f1": adjacency_f1(cells, others),
    }
    return {name: value for name, value in measured.items() if value is not None}


def _table(text: str) -> Node | None:
    try:
        return parse_table(text)
    except TableError:
        return None
