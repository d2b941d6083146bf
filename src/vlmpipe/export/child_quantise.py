"""Runs llama.cpp's quantiser in a process of its own: a fault in it ends that process alone.

Arguments: source file, target file, number of the type, threads.
"""

from __future__ import annotations

import os
import sys


def main(source: str, target: str, ftype: str, threads: str) -> int:
    """Quantise one GGUF file; the exit code is the quantiser's."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(ftype)
    params.nthread = int(threads)
    llama_cpp.llama_backend_init()
    return int(llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), params))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
