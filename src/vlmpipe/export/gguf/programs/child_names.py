"""Prints llama.cpp's names of a model's language tensors as JSON, by its own tensor map.

In a process of its own for the gguf package of llama.cpp's sources. Arguments: folder of the
sources, architecture, number of blocks, then the tensors' names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(sources: str, architecture: str, blocks: str, *names: str) -> None:
    """Print each name with llama.cpp's, null where it has none."""
    sys.path.insert(0, str(Path(sources) / "gguf-py"))
    import gguf

    [arch] = [key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture]
    table = gguf.get_tensor_name_map(arch, int(blocks))
    # The converter drops `language_model.` in the same way.
    found = {
        name: table.get_name(name.replace("language_model.", ""), (".weight", ".bias"))
        for name in names
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
