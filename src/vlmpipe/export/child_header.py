"""Prints the header of a GGUF file as JSON, read by the gguf package of llama.cpp's own sources.

In a process of its own, because the gguf package that is installed is older and does not know every
type that the quantiser writes. Arguments: folder of the sources, the file.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path


def main(sources: str, path: str) -> None:
    """Print architecture and tensor counts by type."""
    sys.path.insert(0, str(Path(sources) / "gguf-py"))
    from gguf import GGUFReader

    reader = GGUFReader(path)
    field = reader.get_field("general.architecture")
    types = Counter(tensor.tensor_type.name.lower() for tensor in reader.tensors)
    header = {"architecture": field.contents() if field else "", "types": types}
    sys.stdout.write(json.dumps(header) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
