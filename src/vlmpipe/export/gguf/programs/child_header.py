"""Prints the header of a GGUF file as JSON, read by the gguf package of llama.cpp's own sources.

In a process of its own, because the gguf package that is installed is older and does not know every
type that the quantiser writes. Arguments: folder of the sources, the file.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

LONGEST_LIST = 256


def main(sources: str, path: str) -> None:
    """Print architecture, keys, tensor counts by type, tensor shapes."""
    sys.path.insert(0, str(Path(sources) / "gguf-py"))
    from gguf import GGUFReader

    reader = GGUFReader(path)
    fields = {name: value_of(each) for name, each in reader.fields.items()}
    header = {
        "architecture": fields.get("general.architecture", ""),
        "types": Counter(tensor.tensor_type.name.lower() for tensor in reader.tensors),
        "fields": fields,
        "shapes": {tensor.name: [int(n) for n in tensor.shape] for tensor in reader.tensors},
    }
    sys.stdout.write(json.dumps(header) + "\n")


def value_of(field: Any) -> Any:
    """A key's value; a vocabulary's length alone, since its words take seconds to decode."""
    if len(field.data) > LONGEST_LIST:
        return {"length": len(field.data)}
    return field.contents()


if __name__ == "__main__":
    main(*sys.argv[1:3])
