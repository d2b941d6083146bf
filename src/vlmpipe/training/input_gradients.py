"""Gradients that nobody asked for: those of the pictures and of the embedded text."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

HOOK_NAME = "make_inputs_require_grads"
"""Of transformers' `enable_input_require_grads`."""


def drop_input_gradients(model: Any) -> None:
    """Take back what lets the inputs of a model require gradients.

    TRL and transformers hook that into the embeddings under gradient checkpointing, and into the
    tower's too: a live frozen tower then gets a whole backward pass (a quarter of a step's FLOPs
    on a small model). Only reentrant checkpointing needs it, and only of the text's embeddings.
    """
    for module in model.modules():
        hooks = module._forward_hooks
        for key in [k for k, hook in hooks.items() if getattr(hook, "__name__", "") == HOOK_NAME]:
            del hooks[key]


class WithoutInputGradients(TrainerCallback):
    """Drops them once everything that hooks them in has run."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Called after the model was wrapped; DeepSpeed ZeRO-3 checkpoints by reentry."""
        if not (args.gradient_checkpointing_kwargs or {}).get("use_reentrant", False):
            drop_input_gradients(model)
