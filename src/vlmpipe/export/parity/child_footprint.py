"""Prints the peak resident memory, in MiB, of answering one prompt: a process is its own measure.

Arguments: one JSON object (`gguf`, `mmproj`, `images`), and a folder that holds the contract.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image

from vlmpipe.encoding.contract import read_contract
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.system.llama_cpp import built_with_cuda

TOKENS = 16


def main(order: str, folder: str) -> None:
    """Load, answer, tell."""
    wanted = json.loads(order)
    engine = LlamaCppEngine(
        Path(wanted["gguf"]),
        Path(wanted["mmproj"]) if wanted["mmproj"] else None,
        read_contract(Path(folder)),
        name="footprint",
        n_gpu_layers=-1 if built_with_cuda() else 0,
    )
    images = [Image.open(path) for path in wanted["images"]]
    engine.complete([Message("user", (*images, "?"))], max_new_tokens=TOKENS)
    engine.close()
    sys.stdout.write(f"{peak_resident_kib() / 1024:.1f}\n")


def peak_resident_kib() -> int:
    """VmHWM of this process: getrusage's figure begins with that of the process it came from."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


if __name__ == "__main__":
    main(*sys.argv[1:3])
