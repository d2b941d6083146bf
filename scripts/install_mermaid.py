"""Installs Mermaid's parser into the shared cache, once, asks it one question, prints where it is.

Run it through `make mermaid`. Needs Node 20.19 or newer, and npm.
"""

from __future__ import annotations

import sys

from rich.console import Console

from vlmpipe.cli.console import RichReporter, print_error
from vlmpipe.errors import ToolError, VlmpipeError
from vlmpipe.system.mermaid_tool import HOW, install_mermaid
from vlmpipe.tasks.chart.mermaid import is_valid_mermaid


def main() -> int:
    """Install, or find what was installed before."""
    console = Console(stderr=True)
    try:
        folder = install_mermaid(RichReporter(console)).folder
        if is_valid_mermaid('pie\n"a" : 1') is not True:
            raise ToolError(f"the parser in {folder} does not start with this Node", HOW)
    except VlmpipeError as error:
        print_error(console, error)
        return error.exit_code
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
