"""The cache folder that all runs of a user share."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$VLMPIPE_CACHE`, else `$XDG_CACHE_HOME/vlmpipe`, else `~/.cache/vlmpipe`; not created."""
    own = os.environ.get("VLMPIPE_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "vlmpipe"
