"""Writes an importance matrix in llama.cpp's own format, by the gguf package of its sources.

The program takes one argument, a file that holds a JSON object: `sources`, `sums` (a safetensors
file, with llama.cpp's tensor names, of the squares of each input column summed), `counts` (tensor
name to rows summed), `dataset`, `chunks`, `chunk_size`, `outfile`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(order: dict[str, Any]) -> None:
    """Write one importance matrix; format of llama.cpp's tools/imatrix/imatrix.cpp."""
    sys.path.insert(0, str(Path(order["sources"]) / "gguf-py"))
    from gguf import GGUFWriter
    from safetensors.numpy import load_file

    writer = GGUFWriter(order["outfile"], arch="imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [order["dataset"]])
    writer.add_uint32("imatrix.chunk_count", order["chunks"])
    writer.add_uint32("imatrix.chunk_size", order["chunk_size"])
    for name, sums in sorted(load_file(order["sums"]).items()):
        count = np.array([[order["counts"][name]]], dtype=np.float32)
        writer.add_tensor(f"{name}.in_sum2", sums.astype(np.float32).reshape(1, -1))
        writer.add_tensor(f"{name}.counts", count)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
