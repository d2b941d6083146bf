"""The transformers model inside whatever wraps it."""

from __future__ import annotations

from typing import Any


def unwrapped(model: Any) -> Any:
    """The transformers model under torch.compile's, DDP's and PEFT's wrappers, or itself."""
    from torch.nn.parallel import DistributedDataParallel

    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, DistributedDataParallel):
            model = model.module
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            return model
