"""Runs llama.cpp's quantiser in a process of its own: a fault in it ends that process alone.

The program takes one argument, a file that holds a JSON object: `sources`, `source`, `target`,
`ftype` (a number), `threads`, `imatrix` (a file, or null).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

INTEGER, TEXT = 0, 3
"""Types of llama.cpp's key overrides."""

LONGEST_TEXT = 127


def main(order: dict[str, Any]) -> int:
    """Quantise one GGUF file; the exit code is the quantiser's."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = order["ftype"]
    params.nthread = order["threads"]
    if order["imatrix"]:
        sys.path.insert(0, str(Path(order["sources"]) / "gguf-py"))
        importances, dataset, chunks = read_imatrix(order["imatrix"])
        kept = matrix_of(importances)
        params.imatrix = kept
        overrides = overrides_of(
            {
                "quantize.imatrix.file": Path(order["imatrix"]).name,
                "quantize.imatrix.dataset": dataset,
                "quantize.imatrix.entries_count": len(importances),
                "quantize.imatrix.chunks_count": chunks,
            }
        )
        params.kv_overrides = overrides
        sys.stdout.write(f"importance matrix: {len(importances)} tensors, {dataset}\n")
        sys.stdout.flush()
    llama_cpp.llama_backend_init()
    source, target = os.fsencode(order["source"]), os.fsencode(order["target"])
    return int(llama_cpp.llama_model_quantize(source, target, params))


def read_imatrix(path: str) -> tuple[dict[str, Any], str, int]:
    """Tensor name to the mean square of each of its input columns; what it was measured on.

    Sums over counts, as llama.cpp's own quantize does.
    """
    from gguf import GGUFReader

    reader = GGUFReader(path)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    means = {
        name.removesuffix(".in_sum2"): (data / tensors[counts_of(name)]).ravel()
        for name, data in tensors.items()
        if name.endswith(".in_sum2")
    }
    datasets = reader.get_field("imatrix.datasets")
    chunks = reader.get_field("imatrix.chunk_count")
    dataset = str(datasets.contents()[0]) if datasets and len(datasets.data) else ""
    return means, dataset, int(chunks.contents()) if chunks else 0


def counts_of(name: str) -> str:
    """The tensor that tells how many rows a sum is of."""
    return f"{name.removesuffix('.in_sum2')}.counts"


def matrix_of(importances: dict[str, Any]) -> Any:
    """llama.cpp's array of named vectors, ended by an empty one; it points into `importances`."""
    import llama_cpp
    import numpy as np

    array = (llama_cpp.llama_model_imatrix_data * (len(importances) + 1))()
    for entry, name in zip(array, list(importances), strict=False):
        values = np.ascontiguousarray(importances[name], dtype=np.float32)
        importances[name] = values
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return array


def overrides_of(keys: dict[str, str | int]) -> Any:
    """llama.cpp's array of keys to write, ended by one without a name."""
    import llama_cpp

    array = (llama_cpp.llama_model_kv_override * (len(keys) + 1))()
    for entry, (key, value) in zip(array, keys.items(), strict=False):
        entry.key = key.encode()
        entry.tag = INTEGER if isinstance(value, int) else TEXT
        if isinstance(value, int):
            entry.value.val_i64 = value
        else:
            entry.value.val_str = value.encode()[:LONGEST_TEXT]
    return array


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
