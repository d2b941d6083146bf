"""What metrics are called for people, and which of them are better when smaller."""

from __future__ import annotations

SMALLER_IS_BETTER: frozenset[str] = frozenset(
    {
        "cer",
        "wer",
        "repaired",
        "hallucinated",
        "missing",
        "loss",
        "perplexity",
        "cut",
        "failed",
        "seconds_per_answer",
        "latency_s",
        "peak_memory_mib",
        "peak_mib",
    }
)
"""Metrics that count what is wrong, or what it costs; of every other one more is better."""

TITLES: dict[str, str] = {
    # any text
    "exact_match": "exact match",
    "agreement": "character agreement",
    "cer": "character error rate",
    "wer": "word error rate",
    "chrf": "chrF",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    # table
    "teds": "TEDS",
    "teds_structure": "TEDS, structure only",
    "structure_match": "structure exactly right",
    "cell_accuracy": "cells exactly right",
    "cell_f1": "F1 over cells",
    "adjacency_f1": "F1 over neighbouring cells",
    # chart
    "chart_f1": "F1 over a chart's facts",
    "pairs_f1": "F1 over labels with their values",
    "nodes_f1": "F1 over nodes",
    "edges_f1": "F1 over arrows",
    "chart_type": "kind of chart right",
    # table and chart; chart and molecule
    "well_formed": "can be read",
    "valid": "valid in its notation",
    # molecule
    "tanimoto": "Tanimoto similarity (Morgan)",
    "exact_match_smiles": "canonical SMILES exactly right",
    "inchi_match": "InChI exactly right",
    # caption
    "facts": "F1 over stated facts",
    # document
    "field_accuracy": "fields right, strict JSON only",
    "field_accuracy_repaired": "fields right, after repair",
    "field_accuracy_weighted": "fields right, critical ones weighted",
    "critical_accuracy": "critical fields right",
    "valid_json": "valid JSON",
    "repaired": "JSON only after repair",
    "schema_valid": "fits the schema",
    "anls_star": "ANLS*",
    "hallucinated": "fields nobody asked for",
    "missing": "fields left out",
    # any model
    "loss": "target loss, nats a token",
    "perplexity": "perplexity",
    "token_accuracy": "tokens right under teacher forcing",
    "image_gain": "image reliance, nats a token",
    "blank_gain": "image reliance against a blank image, nats a token",
    "cut": "answers cut at the limit",
    "failed": "samples that failed",
    "seconds_per_answer": "seconds an answer",
    "latency_s": "latency, seconds",
    "tokens_per_second": "tokens a second",
    "peak_memory_mib": "peak memory, MiB",
    "peak_mib": "peak memory, MiB",
}
"""A metric's name for people; a name that is not here is shown with its underscores as blanks."""


def title_of(name: str) -> str:
    """A metric's name for people."""
    return TITLES.get(name, name.replace("_", " "))


def smaller_is_better(name: str) -> bool:
    """Whether less of a metric is better; `loss_true`, `loss_blank` and the like are losses."""
    return name in SMALLER_IS_BETTER or name.startswith("loss_")
