"""docs/examples/prepared_client.py as a module."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parents[1] / "docs/examples/prepared_client.py"


def load_client() -> Any:
    """A module of its own for each caller."""
    spec = importlib.util.spec_from_file_location("prepared_client", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
