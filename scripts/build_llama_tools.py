"""Compiles llama.cpp's programs into the shared cache, once per version, and prints where they are.

Run it through `make llama-tools`.
"""

from __future__ import annotations

import sys

from rich.console import Console

from vlmpipe.cli.console import RichReporter, print_error
from vlmpipe.errors import VlmpipeError
from vlmpipe.system.llama_tools import llama_tools


def main() -> int:
    """Build, or find what was built before."""
    console = Console(stderr=True)
    try:
        print(llama_tools(RichReporter(console)).folder)
    except VlmpipeError as error:
        print_error(console, error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
